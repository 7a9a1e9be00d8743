"""The proof: every window replayed from its entries, every charge held against what it wrote.

Safe while the server serves. It reads in chunks, each one statement and so one short snapshot of its own: a window's
row is compared with its entries only as both stood in the same snapshot, and so is a charge. Nothing is locked, and no
more than a chunk is in memory.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import Row, text

from tollkeeper.db import Database
from tollkeeper.quota.audit.replay import Fault, Problem, WindowReplay, charge_problems

CHUNK = 5_000
MAX_PROBLEMS = 100
"""More are counted, but not kept."""


def _nulls_named(columns: str) -> str:
    """NULL under the name of each of these columns."""
    return ", ".join(f"NULL AS {column.split('.')[-1].split()[-1]}" for column in columns.split(", "))


_FIRST_WINDOW = -(2**63)
_ENTRIES = text(
    "SELECT entry.window_id, entry.sequence, entry.source_id, entry.kind,"
    " entry.granted, entry.settled, entry.pending, entry.forgiven,"
    " (SELECT id FROM charges WHERE id = entry.source_id) AS charge_id,"
    " windows.sequence AS window_sequence, windows.granted AS window_granted, windows.settled AS window_settled,"
    " windows.pending AS window_pending, windows.forgiven AS window_forgiven"
    " FROM (SELECT * FROM entries WHERE (window_id, sequence) > (:window_id, :sequence)"
    " ORDER BY window_id, sequence LIMIT :most) AS entry"
    " LEFT JOIN windows ON windows.id = entry.window_id ORDER BY entry.window_id, entry.sequence"
)
_WINDOWS = text(
    "SELECT id, EXISTS (SELECT 1 FROM entries WHERE window_id = windows.id) AS has_entries FROM windows"
    " WHERE id > :after ORDER BY id LIMIT :most"
)
_CHUNK_OF_CHARGES = text(
    "SELECT min(id) AS first, max(id) AS last FROM (SELECT id FROM charges WHERE id > :after ORDER BY id LIMIT :most)"
    " AS chunk"
)
_OF_A_CHARGE = (
    "tenant_id, user_id, state, basis, closed_by, closed_ms, overrun, adjusted, refunded, held_tokens, held_micro_usd,"
    " cost_tokens, cost_micro_usd, forgiven_tokens, forgiven_micro_usd"
)
_OF_AN_ENTRY = (
    "window_id, entries.sequence, kind, entries.settled, entries.pending, entries.forgiven, unit,"
    " quotas.tenant_id AS quota_tenant_id, quotas.user_id AS quota_user_id"
)
_CHARGES = text(
    f"SELECT id, {_OF_A_CHARGE}, {_nulls_named(_OF_AN_ENTRY)} FROM charges WHERE id >= :first AND id <= :last"
    f" UNION ALL SELECT source_id, {_nulls_named(_OF_A_CHARGE)}, {_OF_AN_ENTRY}"
    " FROM entries LEFT JOIN windows ON windows.id = window_id LEFT JOIN quotas ON quotas.id = quota_id"
    " WHERE source_id >= :first AND source_id <= :last ORDER BY id, window_id, sequence"
)
"""Charges and entries of a chunk, as rows of their own, each found by one range of an index.

They are not joined: without statistics the planner compares every charge of a chunk with every entry of it, which takes
seconds.
"""
_OPEN = text(
    "SELECT count(*) AS holds, coalesce(sum(CASE WHEN lease_ms < :now_ms THEN 1 ELSE 0 END), 0) AS lapsed FROM charges"
    " WHERE closed_ms IS NULL"
)


@dataclass(slots=True)
class Report:
    """What was looked at, and what is wrong. `lapsed` of the `open_holds` have their lease over."""

    windows: int = 0
    entries: int = 0
    charges: int = 0
    open_holds: int = 0
    lapsed: int = 0
    overruns: int = 0
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return self.problem_count == 0

    def add(self, problems: Iterable[Problem]) -> None:
        """Count problems, and keep the first MAX_PROBLEMS."""
        for problem in problems:
            self.problem_count += 1
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(problem)


async def verify(
    database: Database,
    *,
    now_ms: int,
    chunk: int = CHUNK,
    progress: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Replay the whole ledger. `now_ms` says which leases are over; `progress` is called after each chunk.

    `chunk` is in rows: more than the servers write into one window while a chunk is read. Raises LedgerUnavailable.
    """
    report = Report()
    await _replay_windows(database, report, chunk, progress)
    await _find_empty_windows(database, report, chunk)
    await _check_charges(database, report, chunk, progress)
    (found,) = await _read(database, _OPEN, now_ms=now_ms)
    report.open_holds, report.lapsed = found.holds, found.lapsed
    return report


async def _replay_windows(database: Database, report: Report, chunk: int, progress: Callable[[Report], None]) -> None:
    window: WindowReplay | None = None
    async for rows in _entries(database, chunk):
        for row in rows:
            if window is None or row.window_id != window.window_id:
                if window is not None:
                    report.add(window.finish())
                window = WindowReplay(row.window_id)
            report.add(window.step(row))
        report.entries += len(rows)
        progress(report)
    if window is not None:
        report.add(window.finish())


async def _entries(database: Database, chunk: int) -> AsyncIterator[Sequence[Row[Any]]]:
    """Every entry with its window's row, in order. What is written behind the place reached is not seen."""
    window_id, sequence = _FIRST_WINDOW, 0
    while rows := await _read(database, _ENTRIES, window_id=window_id, sequence=sequence, most=chunk):
        yield rows
        if len(rows) < chunk:
            return
        window_id, sequence = rows[-1].window_id, rows[-1].sequence


async def _find_empty_windows(database: Database, report: Report, chunk: int) -> None:
    """A window is opened with its first entry, so there is none without."""
    after = _FIRST_WINDOW
    while rows := await _read(database, _WINDOWS, after=after, most=chunk):
        report.windows += len(rows)
        report.add(
            Problem(Fault.SEQUENCE, f"window {row.id}", "it has no entries") for row in rows if not row.has_entries
        )
        after = rows[-1].id


async def _check_charges(database: Database, report: Report, chunk: int, progress: Callable[[Report], None]) -> None:
    after = ""
    while True:
        (ids,) = await _read(database, _CHUNK_OF_CHARGES, after=after, most=max(1, chunk // 5))
        if ids.last is None:
            return
        rows = await _read(database, _CHARGES, first=ids.first, last=ids.last)
        for _, group in groupby(rows, key=lambda row: row.id):
            charge, entries = _apart(group)
            if charge is not None:
                report.charges += 1
                report.overruns += bool(charge.overrun)
                report.add(charge_problems(charge, entries))
        after = ids.last
        progress(report)


def _apart(rows: Iterable[Row[Any]]) -> tuple[Row[Any] | None, list[Row[Any]]]:
    """A charge and its entries. There is no charge where the entries are another operation's."""
    charge, entries = None, []
    for row in rows:
        if row.window_id is None:
            charge = row
        else:
            entries.append(row)
    return charge, entries


async def _read(database: Database, statement: Any, **values: Any) -> Sequence[Row[Any]]:
    async with database.session() as session:
        connection = await session.connection()
        return (await connection.execute(statement, values)).all()
