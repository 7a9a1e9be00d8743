"""`tollkeeper usage`: what was spent."""

import asyncio
import csv
import sys
from datetime import date, datetime
from typing import Annotated, Any

import typer

from tollkeeper.administration.usage import Answer, Question, read_usage
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, iso_time, print_json, print_line, print_table
from tollkeeper.cli.targets import find_target
from tollkeeper.errors import InvalidRequest
from tollkeeper.usage.rendering import csv_rows, line_record, sums_record
from tollkeeper.usage.reports import GroupBy

app = typer.Typer(add_completion=False)

TABLE = ("", ">calls", ">input", ">output", ">cost", ">refunded", ">forgiven", ">USD")


@app.command()
def usage(
    tenant: Annotated[str | None, typer.Option(metavar="NAME", show_default=False, help="Only of this tenant.")] = None,
    user: Annotated[str | None, typer.Option(metavar="EMAIL", show_default=False, help="Only of this user.")] = None,
    tag: Annotated[
        str | None,
        typer.Option(metavar="NAME[=VALUE]", show_default=False, help="Only calls with this tag."),
    ] = None,
    by: Annotated[GroupBy, typer.Option("--by", help="What the lines are.")] = GroupBy.DAY,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="DATE", help="From this day on: 2026-11-01. Default: the present month."),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="DATE", help="Before this day.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with all columns.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was spent, by the time of the calls: of a tenant, a user, or all tenants."""
    first, after = _parse(from_, "--from"), _parse(to, "--to")

    async def read() -> Answer:
        async with open_administration() as administration:
            tenant_id = user_id = None
            if tenant is not None or user is not None:
                subject = (await find_target(administration.admin.session, user, tenant)).subject
                tenant_id, user_id = subject.tenant_id, subject.user_id
            return await read_usage(administration.admin, Question(by, tenant_id, user_id, first, after, tag))

    report, period, labels = asyncio.run(read())
    lines, total = [line_record(line, labels) for line in report.lines], sums_record(report.total)
    if as_json:
        times = {"from": iso_time(period.from_ms), "to": iso_time(period.to_ms), "time_zone": period.time_zone}
        print_json({**times, "group_by": by.value, "complete": report.is_complete, "total": total, "data": lines})
    elif as_csv:
        csv.writer(sys.stdout).writerows(csv_rows(report, labels))
    elif lines:
        rows = [_row(line["label"] or line["value"] or "none", line) for line in lines]
        print_table((by.value, *TABLE[1:]), [*rows, _row("total", total)])
    else:
        print_line("Nothing was spent.")
    if not report.is_complete:
        print_line("tollkeeper: Calls of the last seconds are not in it yet. A server adds them up.", error=True)


def _row(name: str, sums: dict[str, Any]) -> tuple[str, ...]:
    amounts = (f"{sums[field]:,}" for field in ("calls", "input_tokens", "output_tokens", "cost"))
    return name, *amounts, f"{sums['refunded']:,}", f"{sums['forgiven']:,}", sums["cost_usd"]


def _parse(text: str | None, option: str) -> datetime | date | None:
    """A date, or a time with its zone. Raises InvalidRequest."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{option}: {text!r} is no day. Write it like 2026-11-01.") from None
