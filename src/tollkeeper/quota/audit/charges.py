"""Compares every charge with its entries, its usage and the quotas that applied to it.

The charges of a chunk and their entries are read by two statements, so a call that ends between them looks wrong. If
something looks wrong, the chunk is read again by one statement, which is one snapshot, and only what is wrong in that
is a problem. One statement for all chunks takes twice the time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Row, bindparam, text

from tollkeeper.db import Database
from tollkeeper.quota.audit.applied_quotas import QuotasByOwner, is_young, skipped_quota_problem, skipped_quotas
from tollkeeper.quota.audit.costs import cost_problems
from tollkeeper.quota.audit.facts import ChargeFacts, EntryFacts, QuotaFacts, WindowFacts
from tollkeeper.quota.audit.invariants import charge_problems, orphan_problem
from tollkeeper.quota.audit.problems import Problem
from tollkeeper.quota.audit.reading import BEFORE_ALL_TENANTS, read
from tollkeeper.quota.audit.report import AuditReport
from tollkeeper.quota.time_sorted_ids import CHARGE_PREFIX, month_of, new_id

MAX_CACHED = 50_000
"""Windows, and owners of quotas, that are kept in memory."""
_ENTRIES_PER_CHARGE = 8
"""A chunk ends early if its charges have more entries than this, on average."""


def _null_columns(columns: str) -> str:
    """A select list with NULL for each of these columns."""
    return ", ".join(f"NULL AS {column}" for column in columns.split(", "))


_NTH_CHARGE = text(
    "SELECT tenant_id, month, id FROM charges WHERE (tenant_id, month, id) > (:tenant_id, :month, :id)"
    " AND id <= :newest ORDER BY tenant_id, month, id LIMIT 1 OFFSET :most"
)
_NTH_ENTRY = text(
    "SELECT tenant_id, month, source_id AS id FROM entries WHERE (tenant_id, source_id) > (:tenant_id, :id)"
    f" AND source_id <= :newest AND source_id LIKE '{CHARGE_PREFIX}%'"
    " ORDER BY tenant_id, source_id, kind, window_id LIMIT 1 OFFSET :most"
)
_CHARGE_COLUMNS, _ENTRY_COLUMNS = ", ".join(ChargeFacts._fields), ", ".join(EntryFacts._fields)
_OF_CHUNK_OF_CHARGES = (
    "FROM charges WHERE (tenant_id, month, id) > (:tenant_id, :month, :id)"
    " AND (tenant_id, month, id) <= (:last_tenant_id, :last_month, :last_id) AND id <= :newest"
)
_OF_CHUNK_OF_ENTRIES = (
    "FROM entries WHERE (tenant_id, source_id) > (:tenant_id, :id)"
    " AND (tenant_id, source_id) <= (:last_tenant_id, :last_id) AND source_id <= :newest"
    f" AND source_id LIKE '{CHARGE_PREFIX}%'"
)
_CHARGES = text(f"SELECT {_CHARGE_COLUMNS} {_OF_CHUNK_OF_CHARGES}")
_ENTRIES = text(f"SELECT {_ENTRY_COLUMNS} {_OF_CHUNK_OF_ENTRIES} ORDER BY tenant_id, source_id, window_id, sequence")
_BOTH = text(
    f"SELECT {_CHARGE_COLUMNS}, {_null_columns(_ENTRY_COLUMNS)} {_OF_CHUNK_OF_CHARGES}"
    f" UNION ALL SELECT {_null_columns(_CHARGE_COLUMNS)}, {_ENTRY_COLUMNS} {_OF_CHUNK_OF_ENTRIES}"
    f" ORDER BY {len(ChargeFacts._fields) + EntryFacts._fields.index('tenant_id') + 1}, source_id, window_id, sequence"
)
"""They are not joined: without statistics the planner compares every charge of a chunk with every entry of it."""
_SPLIT = len(ChargeFacts._fields)
_charge_of = attrgetter("tenant_id", "source_id")
_WINDOWS = text(
    "SELECT windows.tenant_id, windows.id, quota_id, starts_ms, ends_ms, unit, quotas.tenant_id AS owner_tenant_id,"
    " user_id FROM windows LEFT JOIN quotas ON quotas.id = quota_id"
    " WHERE windows.tenant_id IN :tenants AND windows.id IN :windows"
).bindparams(bindparam("tenants", expanding=True), bindparam("windows", expanding=True))
_QUOTA_COLUMNS = (
    "id, tenant_id, user_id, unit, period, (SELECT at_ms FROM entries WHERE entries.tenant_id = quotas.tenant_id"
    " AND sequence = 1 AND window_id = (SELECT id FROM windows WHERE windows.tenant_id = quotas.tenant_id"
    " AND quota_id = quotas.id ORDER BY starts_ms LIMIT 1)) AS since_ms"
)
_QUOTAS = text(
    f"SELECT {_QUOTA_COLUMNS} FROM quotas WHERE user_id IN :users"
    f" UNION ALL SELECT {_QUOTA_COLUMNS} FROM quotas WHERE user_id IS NULL AND tenant_id IN :tenants"
).bindparams(bindparam("users", expanding=True), bindparam("tenants", expanding=True))


class _Position(NamedTuple):
    """The key of a charge, or of the charge of an entry."""

    tenant_id: int
    month: int
    id: str


_END = _Position(2**31 - 1, 2**31 - 1, "")


def _position_of(row: Row[Any]) -> _Position:
    """The position of a charge or entry. A wrong month of one row must not split the chunks in another place."""
    try:
        return _Position(row.tenant_id, month_of(row.id), row.id)
    except ValueError:
        return _Position._make(row)


class _Chunk(NamedTuple):
    """Charges, and the entries of each by tenant and charge id; also entries of charges that there are not."""

    charges: Sequence[ChargeFacts]
    entries: dict[tuple[int, str], list[EntryFacts]]


async def check_charges(
    database: Database, report: AuditReport, chunk: int, progress: Callable[[AuditReport], None]
) -> None:
    """Check the charges that there are now, and the entries of charges. Those that servers make meanwhile are left for
    the next time: else it would not end beside servers that make them as fast as they are read.

    Raises DatabaseUnavailable.
    """
    audit = _ChargeAudit(database, report, max(1, chunk // 5))
    while await audit.check_chunk():
        progress(report)


class _ChargeAudit:
    def __init__(self, database: Database, report: AuditReport, most: int) -> None:
        self._database = database
        self._report = report
        self._most = most
        self._newest = new_id(CHARGE_PREFIX)
        self._after = _Position(BEFORE_ALL_TENANTS, 0, "")
        self._windows: dict[tuple[int, int], WindowFacts] = {}
        self._quotas = QuotasByOwner()
        self._undecided = 0

    async def check_chunk(self) -> bool:
        """Check the next chunk. Returns False for the last one."""
        last = await self._find_last()
        bounds = self._after._asdict() | {f"last_{name}": value for name, value in last._asdict().items()}
        bounds["newest"] = self._newest
        charges = list(map(ChargeFacts._make, await read(self._database, _CHARGES, **bounds)))
        entries = map(EntryFacts._make, await read(self._database, _ENTRIES, **bounds))
        found = _Chunk(charges, _by_charge(entries))
        await self._load_facts(found)
        problems = list(self._problems(found))
        if problems:
            rows = [tuple(row) for row in await read(self._database, _BOTH, **bounds)]
            charges = [ChargeFacts._make(row[:_SPLIT]) for row in rows if row[0] is not None]
            entries = map(EntryFacts._make, (row[_SPLIT:] for row in rows if row[0] is None))
            found = _Chunk(charges, _by_charge(entries))
            await self._load_facts(found)
            problems = list(self._problems(found))
        self._report.add(problems)
        self._report.undecided += self._undecided
        self._report.charges += len(found.charges)
        self._report.overruns += sum(bool(charge.overrun) for charge in found.charges)
        self._after = last
        return last is not _END

    async def _find_last(self) -> _Position:
        """The last position of the next chunk: so many charges or entries later, or the end."""
        after = self._after._asdict() | {"newest": self._newest}
        rows = [
            *await read(self._database, _NTH_CHARGE, most=self._most - 1, **after),
            *await read(self._database, _NTH_ENTRY, most=self._most * _ENTRIES_PER_CHARGE - 1, **after),
        ]
        return min(map(_position_of, rows), key=lambda last: (last.tenant_id, last.id), default=_END)

    def _problems(self, found: _Chunk) -> Iterator[Problem]:
        """What is wrong in a chunk. Counts its undecided charges."""
        self._undecided = 0
        unclaimed = dict(found.entries)
        for charge in found.charges:
            entries = unclaimed.pop((charge.tenant_id, charge.id), [])
            yield from charge_problems(charge, entries, self._windows)
            yield from cost_problems(charge)
            if skipped := skipped_quotas(charge, entries, self._windows, self._quotas):
                old = [quota for quota in skipped if not is_young(quota, charge)]
                self._undecided += len(old) < len(skipped)
                yield from (skipped_quota_problem(charge, quota) for quota in old)
        for entries in unclaimed.values():
            yield from map(orphan_problem, entries)

    async def _load_facts(self, found: _Chunk) -> None:
        """Load the windows and quotas of a chunk that are not in memory."""
        needed = {(tenant, row.window_id) for (tenant, _), entries in found.entries.items() for row in entries}
        if missing := needed - self._windows.keys():
            if len(self._windows) > MAX_CACHED:
                self._windows.clear()
                missing = needed
            tenants, windows = sorted({tenant for tenant, _ in missing}), sorted({window for _, window in missing})
            rows = await read(self._database, _WINDOWS, tenants=tenants, windows=windows)
            for tenant, window, *facts in map(tuple, rows):
                self._windows[tenant, window] = WindowFacts._make(facts)
        if len(self._quotas) > MAX_CACHED:
            self._quotas.clear()
        users, tenants = self._quotas.unknown(found.charges)
        if users or tenants:
            rows = await read(self._database, _QUOTAS, users=users, tenants=tenants)
            self._quotas.add(users, tenants, (QuotaFacts._make(row) for row in rows if row.since_ms is not None))


def _by_charge(entries: Iterable[EntryFacts]) -> dict[tuple[int, str], list[EntryFacts]]:
    return {key: list(group) for key, group in groupby(entries, key=_charge_of)}
