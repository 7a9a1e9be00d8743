"""Show or change the quotas of a user, of a tenant's members, of a tenant, or of the lines of a CSV file.

The server can run meanwhile. Each change is a ledger entry with an actor and a reason. Several changes are made in one
operation, all or none.
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

try:
    import typer
except ModuleNotFoundError:
    sys.exit("adjust_quota: Tollkeeper is not installed in this Python. Run: .venv/bin/python scripts/adjust_quota.py")
from rich.progress import Progress
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.administration import quotas
from tollkeeper.administration.administrator import Administrator
from tollkeeper.cli.arguments import parse_reason
from tollkeeper.cli.balances import BALANCE_COLUMNS, UNIT_NAMES, balance_record, balance_row
from tollkeeper.cli.context import open_administration, open_context
from tollkeeper.cli.csv_file import print_problems
from tollkeeper.cli.open_ledger import open_ledger
from tollkeeper.cli.output import AsJson, make_console, print_json, print_line, print_table
from tollkeeper.cli.quota_arguments import parse_action, parse_amount, parse_unit, parse_window
from tollkeeper.cli.quota_file import FORMAT, Defaults, Row, read_rows
from tollkeeper.cli.runner import run
from tollkeeper.cli.targets import find_members, find_target
from tollkeeper.errors import InvalidRequest, TollkeeperError
from tollkeeper.quota import queries
from tollkeeper.quota.changes import Action, PlannedChange, Target, plan_change

PROGRAM = "adjust_quota"
MAX_CHANGES = 2_000
"""The maximum of one operation. On PostgreSQL, calls that open a new window wait until it is committed."""
CHANGE_COLUMNS = (">line", "whose", "window", "unit", "action", ">limit now", ">limit after", "reason")

HELP = f"""Show or change quotas. The server can run meanwhile.

ACTION is show, set or grant. A change of one quota is made immediately. The changes of --members-of and --csv are only
shown; with --yes they are made, all or none.

\b
{FORMAT}
\b
Examples:
  adjust_quota.py show --user ada@example.com
  adjust_quota.py set --user ada@example.com --window day --limit 200000 --reason "new project"
  adjust_quota.py grant --members-of acme --tokens 5000 --reason "outage" --yes
  adjust_quota.py --csv changes.csv --yes
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=HELP)
def adjust(
    action: Annotated[str | None, typer.Argument(metavar="ACTION", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(metavar="EMAIL", help="One user.")] = None,
    members_of: Annotated[str | None, typer.Option(metavar="TENANT", help="Every user of a tenant.")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="The quota of a tenant.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="A CSV file of changes.")] = None,
    limit: Annotated[str | None, typer.Option(metavar="N", help="For set: the new limit.")] = None,
    tokens: Annotated[str | None, typer.Option(metavar="N", help="For grant: how many to add.")] = None,
    window: Annotated[
        str | None, typer.Option(metavar="WINDOW", help="Which quota; required if there are several or none.")
    ] = None,
    unit: Annotated[str, typer.Option(metavar="UNIT", help="tokens, usd, requests or concurrency.")] = "tokens",
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="The reason; recorded in the ledger.")] = None,
    yes: Annotated[bool | None, typer.Option("--yes/--dry-run", help="Make the changes, or only show them.")] = None,
    as_json: AsJson = False,
) -> None:
    if sum(option is not None for option in (user, members_of, tenant, csv)) != 1:
        raise InvalidRequest("Specify exactly one of --user, --members-of, --tenant and --csv.")
    if action == "show":
        if any(option is not None for option in (csv, limit, tokens, window, reason, yes)):
            raise InvalidRequest("show accepts only --user, --members-of or --tenant.")
        asyncio.run(_show(user, members_of, tenant, as_json=as_json))
        return
    defaults = Defaults(
        parse_action(action) if action is not None else None,
        parse_window(window) if window is not None else None,
        parse_unit(unit),
        parse_reason(reason) if reason is not None else None,
    )
    if csv is None:
        rows: list[Row | str] = [_row_from_options(defaults, user, tenant, limit, tokens)]
    elif limit is not None or tokens is not None:
        raise InvalidRequest("--csv does not accept --limit or --tokens: the file contains the amounts.")
    else:
        rows = list(read_rows(csv, defaults))
        if not rows:
            raise InvalidRequest(f"The file {csv} contains no changes.")
    many = members_of is not None or csv is not None
    asyncio.run(_change(rows, members_of, apply=not many if yes is None else yes, as_json=as_json))


def _row_from_options(
    defaults: Defaults, user: str | None, tenant: str | None, limit: str | None, tokens: str | None
) -> Row:
    """Returns the change that the options request. Raises InvalidRequest."""
    if defaults.action is None:
        raise InvalidRequest("The action is missing. Specify show, set or grant.")
    if defaults.action is Action.SET:
        needed, number, unused, other = "--limit", limit, "--tokens", tokens
    else:
        needed, number, unused, other = "--tokens", tokens, "--limit", limit
    if number is None or other is not None:
        raise InvalidRequest(f"{defaults.action} needs {needed} and does not accept {unused}.")
    if defaults.reason is None:
        raise InvalidRequest("The reason is missing. Add --reason: it is recorded in the ledger.")
    amount = parse_amount(number, needed, minimum=0 if defaults.action is Action.SET else 1)
    return Row(0, user, tenant, defaults.action, amount, defaults.window, defaults.unit, defaults.reason)


async def _show(user: str | None, members_of: str | None, tenant: str | None, *, as_json: bool) -> None:
    async with open_context() as context, context.database.session() as session:
        now_ms, rows, records = context.clock.now_ms(), [], []
        for target in await _find_targets(session, user, tenant, members_of):
            balances = await queries.balances_of(session, [target.subject], now_ms)
            rows += [balance_row(target.label, balance) for balance in balances]
            records += [balance_record(target.label, balance) for balance in balances]
            if not balances:
                rows.append((target.label, "none", *[""] * (len(BALANCE_COLUMNS) - 2)))
    if as_json:
        print_json(records)
    else:
        print_table(BALANCE_COLUMNS, rows)


async def _change(rows: list[Row | str], members_of: str | None, *, apply: bool, as_json: bool) -> None:
    """Print the changes, and make them if `apply`."""
    async with open_administration(PROGRAM) as administration:
        admin, console = administration.admin, make_console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            planned = await _plan(admin, rows, members_of, progress)
            if apply:
                task = progress.add_task("Writing", total=None)
                plan = await quotas.note_changes(admin, [change for _, change in planned])
                await admin.commit()
                async with open_ledger(administration.context.settings) as ledger:
                    balances = await quotas.apply_changes(admin, ledger, plan)
                progress.remove_task(task)
    if as_json:
        limits = [balance.limit for balance in balances] if apply else [change.after for _, change in planned]
        print_json(
            {
                "written": apply,
                "changes": [
                    _record(line, change, limit) for (line, change), limit in zip(planned, limits, strict=True)
                ],
            }
        )
        return
    count = f"{len(planned):,} changes" if len(planned) > 1 else "1 change"
    limits = [balance.limit for balance in balances] if apply else [change.after for _, change in planned]
    print_table(
        CHANGE_COLUMNS,
        [_change_row(line, change, limit) for (line, change), limit in zip(planned, limits, strict=True)],
    )
    if apply:
        print_line(f"Written: {count}.")
    else:
        print_line(f"Dry run: nothing written; add --yes to apply ({count}).")


async def _plan(
    admin: Administrator, rows: list[Row | str], members_of: str | None, progress: Progress
) -> list[tuple[int, PlannedChange]]:
    """Returns the planned changes, each with its line number. Raises InvalidRequest if any is invalid."""
    planned: list[tuple[int, PlannedChange]] = []
    errors: list[str] = []
    for row in progress.track(rows, description="Checking"):
        if isinstance(row, str):
            errors.append(row)
            continue
        prefix = f"line {row.line}: " if row.line else ""
        try:
            targets = await _find_targets(admin.session, row.email, row.tenant, members_of)
        except TollkeeperError as error:
            errors.append(prefix + error.detail)
            continue
        for target in progress.track(targets, description="Members") if members_of else targets:
            try:
                planned.append((row.line, await plan_change(admin.session, row.to_change(target), admin.now_ms)))
            except InvalidRequest as error:
                errors.append(prefix + error.detail)
    _raise_errors(errors or _find_repeated(planned))
    if len(planned) > MAX_CHANGES:
        raise InvalidRequest(f"There are {len(planned):,} changes. The maximum of one operation is {MAX_CHANGES:,}.")
    return planned


async def _find_targets(
    session: AsyncSession, user: str | None, tenant: str | None, members_of: str | None
) -> list[Target]:
    """Raises NotFound, InvalidRequest."""
    if members_of is not None:
        return await find_members(session, members_of)
    return [await find_target(session, user, tenant)]


def _find_repeated(planned: list[tuple[int, PlannedChange]]) -> list[str]:
    """Returns an error for each quota that occurs twice: the changes of one operation have no order."""
    first_lines: dict[object, int] = {}
    errors = []
    for line, change in planned:
        first = first_lines.setdefault(change.key, line)
        if first != line:
            errors.append(f"line {line}: This changes the same quota as line {first}.")
    return errors


def _raise_errors(errors: list[str]) -> None:
    """Print the errors and raise InvalidRequest, if there are any. A single error is only raised."""
    if not errors:
        return
    if len(errors) == 1:
        raise InvalidRequest(errors[0])
    print_problems(PROGRAM, errors)
    raise InvalidRequest(f"Nothing was written: {len(errors):,} changes are invalid.")


def _change_row(line: int, change: PlannedChange, after: int) -> tuple[str, ...]:
    request = change.request
    return (
        str(line or ""),
        request.target.label,
        str(change.key.period),
        UNIT_NAMES[request.unit],
        f"{request.action} {request.amount:,}",
        f"{change.before:,}" if change.before is not None else "none",
        f"{after:,}",
        request.reason,
    )


def _record(line: int, change: PlannedChange, after: int) -> dict[str, object]:
    request = change.request
    return {
        "line": line or None,
        "whose": request.target.label,
        "window": str(change.key.period),
        "unit": UNIT_NAMES[request.unit],
        "action": str(request.action),
        "amount": request.amount,
        "limit_before": change.before,
        "limit": after,
        "reason": request.reason,
    }


if __name__ == "__main__":
    sys.exit(run(app, PROGRAM))
