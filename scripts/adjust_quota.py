"""Adjust quotas by hand, while the server runs: for one user, a tenant's members, a tenant as a whole, or a CSV file.

Every change goes through the ledger as an entry with actor and reason; several are made in one operation, all or none.
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.cli import quota_file, subjects, tables, values
from tollkeeper.cli.context import CommandContext, actor, opened
from tollkeeper.cli.quota_file import Defaults, Row
from tollkeeper.cli.runner import run
from tollkeeper.clock import SystemClock
from tollkeeper.errors import InvalidRequest, TollkeeperError
from tollkeeper.quota import queries
from tollkeeper.quota.changes import Action, PlannedChange, Target, make, plan

PROGRAM = "adjust_quota"
MAX_CHANGES = 2_000
"""In one operation: on PostgreSQL, calls that open a new window wait for it."""
MAX_ERRORS_SHOWN = 20
CHANGE_COLUMNS = (">line", "whose", "window", "unit", "action", ">limit now", ">limit after", "reason")

HELP = f"""Show or change quotas, safely while the server runs.

ACTION is show, set or grant. A change of one quota is made at once. With --members-of and --csv the changes are only
shown; with --yes they are made, all or none.

\b
{quota_file.FORMAT}
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
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="The tenant's own quota.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="A file of changes.")] = None,
    limit: Annotated[str | None, typer.Option(metavar="N", help="For set: the new limit.")] = None,
    tokens: Annotated[str | None, typer.Option(metavar="N", help="For grant: how many more.")] = None,
    window: Annotated[
        str | None, typer.Option(metavar="WINDOW", help="Which quota; not needed where there is just one.")
    ] = None,
    unit: Annotated[str, typer.Option(metavar="UNIT", help="tokens, or usd, counted in micro-USD.")] = "tokens",
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; written into the ledger.")] = None,
    yes: Annotated[bool | None, typer.Option("--yes/--dry-run", help="Make the changes, or only show them.")] = None,
) -> None:
    if sum(one is not None for one in (user, members_of, tenant, csv)) != 1:
        raise InvalidRequest("Say whose quotas with one of --user, --members-of, --tenant and --csv.")
    if action == "show":
        if any(one is not None for one in (csv, limit, tokens, window, reason, yes)):
            raise InvalidRequest("show takes --user, --members-of or --tenant, and nothing else.")
        asyncio.run(_show(user, members_of, tenant))
        return
    defaults = Defaults(
        values.action(action) if action is not None else None,
        values.window(window) if window is not None else None,
        values.unit(unit),
        values.reason(reason) if reason is not None else None,
    )
    if csv is None:
        rows: list[Row | str] = [_typed(defaults, user, tenant, limit, tokens)]
    elif limit is not None or tokens is not None:
        raise InvalidRequest("With --csv, the numbers stand in the file.")
    else:
        rows = list(quota_file.read(csv, defaults))
        if not rows:
            raise InvalidRequest(f"The file {csv} names no changes.")
    many = members_of is not None or csv is not None
    asyncio.run(_change(rows, members_of, apply=not many if yes is None else yes))


def _typed(defaults: Defaults, user: str | None, tenant: str | None, limit: str | None, tokens: str | None) -> Row:
    """The change that the options ask for. Raises InvalidRequest."""
    if defaults.action is None:
        raise InvalidRequest("Say what to do: show, set or grant.")
    if defaults.action is Action.SET:
        name, number, stray = "--limit", limit, tokens
    else:
        name, number, stray = "--tokens", tokens, limit
    if number is None or stray is not None:
        raise InvalidRequest(f"{defaults.action} takes a number with {name}.")
    if defaults.reason is None:
        raise InvalidRequest("Say why with --reason: it is written into the ledger.")
    amount = values.amount(number, name, least=0 if defaults.action is Action.SET else 1)
    return Row(0, user, tenant, defaults.action, amount, defaults.window, defaults.unit, defaults.reason)


async def _show(user: str | None, members_of: str | None, tenant: str | None) -> None:
    async with opened() as install, install.database.session() as session:
        now_ms, rows = SystemClock().now_ms(), []
        for target in await _targets(session, user, tenant, members_of):
            balances = await queries.balances_of(session, [target.subject], now_ms)
            rows += [tables.balance_row(target.label, balance) for balance in balances]
            if not balances:
                rows.append((target.label, "none", *[""] * (len(tables.BALANCE_COLUMNS) - 2)))
    tables.show(tables.BALANCE_COLUMNS, rows)


async def _change(rows: list[Row | str], members_of: str | None, *, apply: bool) -> None:
    """Show what would change, and change it when told to."""
    async with opened() as install:
        errors = tables.console(stderr=True)
        with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
            planned = await _plan(install, rows, members_of, progress)
            if apply:
                task = progress.add_task("Writing", total=None)
                async with install.ledger() as ledger:
                    balances = await make(ledger, [change for _, change in planned], actor=actor(PROGRAM))
                progress.remove_task(task)
    number = f"{len(planned):,} changes" if len(planned) > 1 else "1 change"
    after = [one.limit for one in balances] if apply else [change.after for _, change in planned]
    tables.show(
        CHANGE_COLUMNS,
        [_change_row(line, change, limit) for (line, change), limit in zip(planned, after, strict=True)],
    )
    if apply:
        typer.echo(f"Written: {number}.")
    else:
        typer.echo(f"Dry run: nothing written; add --yes to apply ({number}).")


async def _plan(
    install: CommandContext, rows: list[Row | str], members_of: str | None, progress: Progress
) -> list[tuple[int, PlannedChange]]:
    """What the rows come to, each with its line. Raises InvalidRequest telling every one that is wrong."""
    planned: list[tuple[int, PlannedChange]] = []
    errors: list[str] = []
    now_ms = SystemClock().now_ms()
    async with install.database.session() as session:
        for row in progress.track(rows, description="Checking"):
            if isinstance(row, str):
                errors.append(row)
                continue
            where = f"line {row.line}: " if row.line else ""
            try:
                targets = await _targets(session, row.email, row.tenant, members_of)
            except TollkeeperError as error:
                errors.append(where + error.detail)
                continue
            for target in progress.track(targets, description="Members") if members_of else targets:
                try:
                    planned.append((row.line, await plan(session, row.change(target), now_ms)))
                except InvalidRequest as error:
                    errors.append(where + error.detail)
    _refuse(errors or _repeated(planned))
    if len(planned) > MAX_CHANGES:
        raise InvalidRequest(f"These are {len(planned):,} changes; at most {MAX_CHANGES:,} are made at once.")
    return planned


async def _targets(session: AsyncSession, user: str | None, tenant: str | None, members_of: str | None) -> list[Target]:
    """Raises NotFound, InvalidRequest."""
    if members_of is not None:
        return await subjects.find_members(session, members_of)
    return [await subjects.find(session, user, tenant)]


def _repeated(planned: list[tuple[int, PlannedChange]]) -> list[str]:
    """One operation changes a quota once: what would come first is not said by a file."""
    lines: dict[object, int] = {}
    errors = []
    for line, change in planned:
        first = lines.setdefault(change.key, line)
        if first != line:
            errors.append(f"line {line}: It changes the same quota as line {first}.")
    return errors


def _refuse(errors: list[str]) -> None:
    """Tell what is wrong, unless nothing is. Raises InvalidRequest."""
    if not errors:
        return
    if len(errors) == 1:
        raise InvalidRequest(errors[0])
    for error in errors[:MAX_ERRORS_SHOWN]:
        typer.echo(f"{PROGRAM}: {error}", err=True)
    raise InvalidRequest(f"Nothing was written: {len(errors):,} changes are wrong.")


def _change_row(line: int, change: PlannedChange, after: int) -> tuple[str, ...]:
    request = change.request
    return (
        str(line or ""),
        request.target.label,
        str(change.key.period),
        tables.UNIT_NAMES[request.unit],
        f"{request.action} {request.amount:,}",
        f"{change.before:,}" if change.before is not None else "none",
        f"{after:,}",
        request.reason,
    )


if __name__ == "__main__":
    sys.exit(run(app, PROGRAM))
