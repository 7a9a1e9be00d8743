"""Verifies the ledger: recomputes every window from its entries, and every charge from its entries, usage and quotas.

It is safe while servers write. It reads in chunks, one statement each, so each chunk is one short snapshot. A window or
a charge is compared with its entries only within one snapshot. Nothing is locked, and one chunk is in memory at a time.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import Row, bindparam, text

from tollkeeper.db import Database
from tollkeeper.quota.audit.applied_quotas import QuotasByOwner, is_young, skipped_quota_problem, skipped_quotas
from tollkeeper.quota.audit.costs import cost_problems
from tollkeeper.quota.audit.invariants import Fault, Problem, WindowCheck, charge_problems
from tollkeeper.quota.time_sorted_ids import new_id

CHUNK_ROWS = 5_000
MAX_PROBLEMS = 100
"""Problems in a report. More are counted, but not listed."""
BLIND_SPOTS = (
    "rows that were changed or deleted together, so that they still add up",
    "a usage, price or weight that was stored wrong, or changed together with the cost and its entries",
    "a quota that was deleted with its windows, or given to another owner",
    "whether a charge in the first minute of a quota should have held on it",
    "whether an unknown outcome should have been forgiven, and the bound of a recovered charge's counted cost",
)
"""What `verify` cannot see, because no other row contradicts it."""


def _null_columns(columns: str) -> str:
    """A select list with NULL for each of these columns."""
    return ", ".join(f"NULL AS {column.split('.')[-1].split()[-1]}" for column in columns.split(", "))


_BEFORE_ALL = -(2**31)
_ENTRIES = text(
    "SELECT entry.tenant_id, entry.window_id, entry.sequence, entry.month, entry.source_id, entry.kind,"
    " entry.granted, entry.settled, entry.pending, entry.forgiven,"
    " (SELECT id FROM charges WHERE charges.tenant_id = entry.tenant_id AND charges.month = entry.month"
    " AND charges.id = entry.source_id) AS charge_id,"
    " windows.sequence AS window_sequence, windows.granted AS window_granted, windows.settled AS window_settled,"
    " windows.pending AS window_pending, windows.forgiven AS window_forgiven"
    " FROM (SELECT * FROM entries WHERE (tenant_id, window_id, sequence) > (:tenant_id, :window_id, :sequence)"
    " ORDER BY tenant_id, window_id, sequence LIMIT :most) AS entry"
    " LEFT JOIN windows ON windows.tenant_id = entry.tenant_id AND windows.id = entry.window_id"
    " ORDER BY entry.tenant_id, entry.window_id, entry.sequence"
)
_WINDOWS = text(
    "SELECT tenant_id, quota_id, starts_ms, id, EXISTS (SELECT 1 FROM entries WHERE entries.tenant_id ="
    " windows.tenant_id AND window_id = windows.id) AS has_entries FROM windows"
    " WHERE (tenant_id, quota_id, starts_ms) > (:tenant_id, :quota_id, :starts_ms)"
    " ORDER BY tenant_id, quota_id, starts_ms LIMIT :most"
)
_CHUNK_OF_CHARGES = text(
    "SELECT tenant_id, month, id FROM (SELECT tenant_id, month, id FROM charges"
    " WHERE (tenant_id, month, id) > (:tenant_id, :month, :id) AND id <= :newest"
    " ORDER BY tenant_id, month, id LIMIT :most) AS chunk"
    " ORDER BY tenant_id DESC, month DESC, id DESC LIMIT 1"
)
"""The last charge of a chunk: the charges after (:tenant_id, :month, :id) that are not newer than :newest."""
_CHARGE_COLUMNS = (
    "user_id, state, basis, closed_by, closed_ms, overrun, adjusted, refunded, held_tokens, held_micro_usd,"
    " cost_tokens, cost_micro_usd, forgiven_tokens, forgiven_micro_usd, weight_milli, price_input, price_cached,"
    " price_output, price_cache_write, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,"
    " checkpoint_input, checkpoint_output, created_ms, error"
)
_ENTRY_COLUMNS = (
    "window_id, entries.sequence, kind, entries.settled, entries.pending, entries.forgiven, quota_id, starts_ms,"
    " ends_ms, unit, quotas.tenant_id AS quota_tenant_id, quotas.user_id AS quota_user_id"
)
_CHARGES = text(
    f"SELECT tenant_id, month, id, {_CHARGE_COLUMNS}, {_null_columns(_ENTRY_COLUMNS)} FROM charges"
    " WHERE (tenant_id, month, id) > (:tenant_id, :month, :id)"
    " AND (tenant_id, month, id) <= (:last_tenant_id, :last_month, :last_id)"
    f" UNION ALL SELECT entries.tenant_id, month, source_id, {_null_columns(_CHARGE_COLUMNS)}, {_ENTRY_COLUMNS}"
    " FROM entries LEFT JOIN windows ON windows.tenant_id = entries.tenant_id AND windows.id = window_id"
    " LEFT JOIN quotas ON quotas.id = quota_id WHERE (entries.tenant_id, source_id) > (:tenant_id, :id)"
    " AND (entries.tenant_id, source_id) <= (:last_tenant_id, :last_id) AND kind <> 'open'"
    " ORDER BY tenant_id, id, window_id, sequence"
)
"""The charges and the entries of a chunk, as separate rows, each read by one range of an index.

The ids of a tenant's charges sort by their months. Charges and entries are not joined: without statistics the planner
compares every charge of a chunk with every entry of it, which takes seconds.
"""
_QUOTA_COLUMNS = (
    "id, tenant_id, user_id, unit, period, (SELECT at_ms FROM entries WHERE entries.tenant_id = quotas.tenant_id"
    " AND sequence = 1 AND window_id = (SELECT id FROM windows WHERE windows.tenant_id = quotas.tenant_id"
    " AND quota_id = quotas.id ORDER BY starts_ms LIMIT 1)) AS since_ms"
)
_QUOTAS = text(
    f"SELECT {_QUOTA_COLUMNS} FROM quotas WHERE user_id IN :users"
    f" UNION ALL SELECT {_QUOTA_COLUMNS} FROM quotas WHERE user_id IS NULL AND tenant_id IN :tenants"
).bindparams(bindparam("users", expanding=True), bindparam("tenants", expanding=True))
"""The quotas of the users and tenants of a chunk.

It is a statement of its own: a quota that is old enough to be compared with a charge was there before the charge.
"""
_OPEN = text(
    "SELECT count(*) AS holds, coalesce(sum(CASE WHEN lease_ms < :now_ms THEN 1 ELSE 0 END), 0) AS lapsed FROM charges"
    " WHERE closed_ms IS NULL"
)


@dataclass(slots=True)
class AuditReport:
    """What was checked, and what is wrong. The leases of `lapsed` of the `open_holds` are over.

    Of `undecided` charges the rows do not tell whether they skipped a quota, because it was created just before.
    """

    windows: int = 0
    entries: int = 0
    charges: int = 0
    open_holds: int = 0
    lapsed: int = 0
    overruns: int = 0
    undecided: int = 0
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0

    def add(self, problems: Iterable[Problem]) -> None:
        """Count problems, and list the first MAX_PROBLEMS."""
        for problem in problems:
            self.problem_count += 1
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(problem)


async def verify(
    database: Database,
    *,
    now_ms: int,
    chunk: int = CHUNK_ROWS,
    progress: Callable[[AuditReport], None] = lambda _: None,
) -> AuditReport:
    """Verify the whole ledger. `now_ms` decides which leases are over; `progress` is called after each chunk.

    `chunk` is in rows, and must be more than the servers write into one window while a chunk is read.
    Raises DatabaseUnavailable.
    """
    report = AuditReport()
    await _check_windows(database, report, chunk, progress)
    await _find_empty_windows(database, report, chunk)
    await _check_charges(database, report, chunk, progress)
    (found,) = await _read(database, _OPEN, now_ms=now_ms)
    report.open_holds, report.lapsed = found.holds, found.lapsed
    return report


async def _check_windows(
    database: Database, report: AuditReport, chunk: int, progress: Callable[[AuditReport], None]
) -> None:
    window: WindowCheck | None = None
    async for rows in _entries(database, chunk):
        for row in rows:
            if window is None or (row.tenant_id, row.window_id) != (window.tenant_id, window.window_id):
                if window is not None:
                    report.add(window.finish())
                window = WindowCheck(row.tenant_id, row.window_id)
            report.add(window.add(row))
        report.entries += len(rows)
        progress(report)
    if window is not None:
        report.add(window.finish())


async def _entries(database: Database, chunk: int) -> AsyncIterator[Sequence[Row[Any]]]:
    """Every entry with its window's row, in order. Entries written behind the position are not read."""
    after = {"tenant_id": _BEFORE_ALL, "window_id": 0, "sequence": 0}
    while rows := await _read(database, _ENTRIES, most=chunk, **after):
        yield rows
        if len(rows) < chunk:
            return
        after = {column: getattr(rows[-1], column) for column in after}


async def _find_empty_windows(database: Database, report: AuditReport, chunk: int) -> None:
    """Count windows, and find those without entries: a window is created together with its first entry."""
    after = {"tenant_id": _BEFORE_ALL, "quota_id": 0, "starts_ms": 0}
    while rows := await _read(database, _WINDOWS, most=chunk, **after):
        report.windows += len(rows)
        report.add(
            Problem(Fault.SEQUENCE, f"window {row.id}", "it has no entries") for row in rows if not row.has_entries
        )
        after = {column: getattr(rows[-1], column) for column in after}


async def _check_charges(
    database: Database, report: AuditReport, chunk: int, progress: Callable[[AuditReport], None]
) -> None:
    """Check the charges that there are now. Those that servers make meanwhile are left for the next time: else it would
    not end beside servers that make them as fast as they are read.
    """
    after: dict[str, Any] = {"tenant_id": _BEFORE_ALL, "month": 0, "id": ""}
    newest, most = new_id("chg"), max(1, chunk // 5)
    while chunk_end := await _read(database, _CHUNK_OF_CHARGES, most=most, newest=newest, **after):
        last = {column: getattr(chunk_end[0], column) for column in after}
        rows = await _read(database, _CHARGES, **after, **{f"last_{column}": value for column, value in last.items()})
        found = [_split(group) for _, group in groupby(rows, key=lambda row: (row.tenant_id, row.id))]
        charges = [(charge, entries) for charge, entries in found if charge is not None]
        users, tenants = ({getattr(charge, owner) for charge, _ in charges} for owner in ("user_id", "tenant_id"))
        quotas = QuotasByOwner(await _read(database, _QUOTAS, users=sorted(users), tenants=sorted(tenants)))
        for charge, entries in charges:
            _check_charge(report, charge, entries, quotas)
        after = last
        progress(report)


def _check_charge(report: AuditReport, charge: Row[Any], entries: list[Row[Any]], quotas: QuotasByOwner) -> None:
    report.charges += 1
    report.overruns += bool(charge.overrun)
    report.add(charge_problems(charge, entries))
    report.add(cost_problems(charge))
    skipped = skipped_quotas(charge, entries, quotas)
    report.add(skipped_quota_problem(charge, quota) for quota in skipped if not is_young(quota, charge))
    report.undecided += any(is_young(quota, charge) for quota in skipped)


def _split(rows: Iterable[Row[Any]]) -> tuple[Row[Any] | None, list[Row[Any]]]:
    """Separate a charge from its entries. The charge is None if the entries are those of another operation."""
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
