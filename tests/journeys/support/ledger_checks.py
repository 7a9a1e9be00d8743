"""Checks of the ledger's rows that use none of the ledger's own arithmetic."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlmodel import SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.database.engine import Database
from tollkeeper.quota.rules.models import Charge, Entry, Quota, Unit, Window

CLOSING = {"settle", "release", "expire"}


async def assert_ledger_is_consistent(database_url: str) -> None:
    """Every balance is the sum of its entries, which are numbered without a gap; used plus held never exceeded granted
    when a hold was made (P1); every charge was held once and closed at most once in each of its windows; its cost is
    what its windows paid. A replayed response held nothing and cost nothing.
    """
    database = Database(database_url)
    try:
        async with database.session() as session:
            tables = (Quota, Window, Entry, Charge)
            quotas, windows, entries, charge_rows = [await _rows_of(session, table) for table in tables]
    finally:
        await database.close()
    charges = {charge.id: charge for charge in charge_rows}
    entries.sort(key=attrgetter("window_id", "sequence"))
    entries_by_window = {window_id: list(group) for window_id, group in groupby(entries, attrgetter("window_id"))}
    assert entries_by_window.keys() == {window.id for window in windows}
    for window in windows:
        assert window.id is not None
        _assert_window(window, entries_by_window[window.id])
    of_tokens = {quota.id for quota in quotas if quota.unit == Unit.TOKENS.value}
    token_windows = {window.id for window in windows if window.quota_id in of_tokens}
    _assert_charges(charges, [entry for entry in entries if entry.window_id in token_windows])


async def _rows_of(session: AsyncSession, table: type[SQLModel]) -> list[Any]:
    """All rows of a table, as plain rows. PostgreSQL ends a transaction in which the making of objects takes long."""
    connection = await session.connection()
    return list((await connection.execute(sa.select(*table.__table__.columns))).all())  # type: ignore[attr-defined]


def _assert_window(window: Window, entries: Sequence[Entry]) -> None:
    assert [entry.sequence for entry in entries] == list(range(1, window.sequence + 1)), window
    granted = settled = pending = forgiven = 0
    only_reports = False
    for entry in entries:
        granted += entry.granted
        settled += entry.settled
        pending += entry.pending
        forgiven += entry.forgiven
        assert min(settled, pending, forgiven) >= 0, entry
        if entry.kind in ("report", "block"):
            only_reports = entry.kind == "report"
        if entry.kind == "reserve" and not only_reports:
            assert settled + pending <= granted, f"{entry} broke P1"
    assert (granted, settled, pending, forgiven) == (window.granted, window.settled, window.pending, window.forgiven)


def _assert_charges(charges: dict[str, Charge], entries: Sequence[Entry]) -> None:
    """Check charges by their entries in windows of tokens. A refund gives the whole cost back."""
    by_window: dict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.source_id.startswith("chg_"):
            by_window[entry.source_id, entry.window_id].append(entry)
    held = {charge_id for charge_id, _ in by_window}
    assert held == {one.id for one in charges.values() if one.basis != "cache"}, [
        one for one in charges.values() if (one.id in held) == (one.basis == "cache")
    ]
    for charge in charges.values():
        assert charge.basis != "cache" or (charge.held_tokens, charge.cost_tokens) == (0, 0), charge
    for (charge_id, _), entries_of_window in by_window.items():
        charge = charges[charge_id]
        kinds = [entry.kind for entry in entries_of_window]
        assert kinds[0] == "reserve", entries_of_window
        assert entries_of_window[0].pending == charge.held_tokens
        assert len(CLOSING.intersection(kinds)) == (charge.closed_ms is not None), entries_of_window
        assert kinds.count("adjust") == charge.adjusted, entries_of_window
        assert len(kinds) == len(set(kinds)), entries_of_window
        refunded = sum(-entry.settled for entry in entries_of_window if entry.kind == "refund")
        assert refunded == (charge.cost_tokens if charge.refunded else 0), entries_of_window
        paid = sum(entry.settled for entry in entries_of_window) + refunded
        assert paid == charge.cost_tokens, entries_of_window
        assert sum(entry.forgiven for entry in entries_of_window) == charge.forgiven_tokens, entries_of_window
        assert sum(entry.pending for entry in entries_of_window) == (0 if charge.closed_ms else charge.held_tokens), (
            entries_of_window
        )


async def charges_in(database_url: str) -> list[Charge]:
    """All charges in the database, the oldest first."""
    database = Database(database_url)
    try:
        async with database.session() as session:
            return list((await session.exec(select(Charge).order_by(col(Charge.id)))).all())
    finally:
        await database.close()
