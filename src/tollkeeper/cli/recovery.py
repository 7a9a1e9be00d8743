"""`tollkeeper ledger recover`: books the calls that a restored database lacks, from the events of the servers."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlmodel import col, select

from tollkeeper.audit_log.models import INSTALLATION
from tollkeeper.cli.context import CommandContext, open_administration, open_context
from tollkeeper.cli.output import AsJson, format_time, iso_time, print_json, print_line
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity.models import User
from tollkeeper.quota.recovery import Book, Fate, FoundUser, RecoveryReport, recover

_LABELS = {
    Fate.BOOKED: "Calls that are booked already",
    Fate.OPEN: "Calls that were in flight at the backup, and {verb} closed as their event says",
    Fate.WITHOUT_USER: "Calls of users who are not in the database, or were created later (not booked)",
    Fate.TOO_OLD: "Calls older than 35 days, which may be in an archive (not booked)",
    Fate.TOO_NEW: "Calls with a time that is yet to come (not booked)",
    Fate.REFUSED: "Calls that the ledger refused (not booked)",
}


def register(app: typer.Typer) -> None:
    app.command(name="recover")(recover_command)


def recover_command(
    events: Annotated[
        list[Path],
        typer.Option(
            "--events", metavar="FILE", show_default=False, help="A file of TOLLKEEPER_EVENTS_FILE; may be repeated."
        ),
    ],
    apply: Annotated[bool, typer.Option("--apply", help="Book the calls. Without it, nothing is changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the calls that the ledger lacks after a restore, and book them with --apply."""
    for path in events:
        if not path.is_file():
            raise InvalidRequest(f"There is no file {path}.")
    report = asyncio.run(_apply(events) if apply else _plan(events))
    if as_json:
        print_json(_record(report, applied=apply))
    else:
        _print(report, applied=apply)


async def _plan(paths: Sequence[Path]) -> RecoveryReport:
    async with open_context() as context:
        return await _recover(context, paths)


async def _apply(paths: Sequence[Path]) -> RecoveryReport:
    from tollkeeper.cli.open_ledger import open_ledger  # `ledger verify` does not need what it loads

    async with open_administration() as administration:
        admin, context = administration.admin, administration.context
        planned = await _recover(context, paths)
        await admin.note(INSTALLATION, "ledger.recover", "ledger", after=_record(planned, applied=True))
        await admin.commit()
        async with open_ledger(context.settings) as ledger:
            return await _recover(context, paths, ledger.book)


async def _recover(context: CommandContext, paths: Sequence[Path], book: Book | None = None) -> RecoveryReport:
    async def find_users(ids: Collection[int]) -> dict[int, FoundUser]:
        async with context.database.session() as session:
            users = (await session.exec(select(User).where(col(User.id).in_(ids)))).all()
        return {user.id or 0: FoundUser(user.tenant_id, int(user.created_at.timestamp() * 1000)) for user in users}

    return await recover(context.database, _lines(paths), find_users, now_ms=context.clock.now_ms(), book=book)


def _lines(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            with path.open("rb") as file:
                yield from file
        except OSError as error:
            raise InvalidRequest(f"Cannot read {path}: {error.strerror or error}.") from None


def _record(report: RecoveryReport, *, applied: bool) -> dict[str, Any]:
    return {
        "applied": applied,
        "calls": {fate.value: report.fates[fate] for fate in Fate},
        "lost_tokens": report.lost_tokens,
        "lost_micro_usd": report.lost_micro_usd,
        "first_lost": iso_time(report.first_lost_ms),
        "last_lost": iso_time(report.last_lost_ms),
        "unreadable_lines": report.unreadable,
    }


def _print(report: RecoveryReport, *, applied: bool) -> None:
    verb = "are" if applied else "would be"
    for fate, label in _LABELS.items():
        if report.fates[fate]:
            print_line(f"{label.format(verb=verb)}: {report.fates[fate]:,}")
    if report.unreadable:
        print_line(f"Lines that cannot be read: {report.unreadable:,}")
    if (lost := report.fates[Fate.LOST]) and report.first_lost_ms is not None and report.last_lost_ms is not None:
        print_line(
            f"Calls that are not in the ledger, and {verb} booked in the current windows, marked `recovered`: {lost:,}"
            f" ({report.lost_tokens:,} tokens, {report.lost_micro_usd:,} micro-USD,"
            f" from {format_time(report.first_lost_ms)} to {format_time(report.last_lost_ms)})"
        )
    if not applied:
        is_complete = not lost and not report.fates[Fate.OPEN]
        print_line("There is nothing to book." if is_complete else "Nothing was changed. Book them with --apply.")
