"""Compares every charge with its entries, its usage and the quotas that applied to it.

The charges of a chunk and their entries are read by two statements, so a call that ends between them looks wrong. If
something looks wrong, the chunk is read again by one statement, which is one snapshot, and only what is wrong in that
is a problem. One statement for all chunks takes twice the time.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from operator import itemgetter

from sqlalchemy import bindparam, text

from tollkeeper.database.engine import Database
from tollkeeper.quota.audit.applied_quotas import QuotasByOwner, is_young, skipped_quota_problem, skipped_quotas
from tollkeeper.quota.audit.charge_chunks import BEGIN, END, ChargeReader, Chunk, Position
from tollkeeper.quota.audit.costs import cost_problems
from tollkeeper.quota.audit.cut import Cut
from tollkeeper.quota.audit.facts import EntryFacts, Key, QuotaFacts, WindowFacts
from tollkeeper.quota.audit.invariants import charge_problems, orphan_problem
from tollkeeper.quota.audit.problems import Problem
from tollkeeper.quota.audit.reading import read_values
from tollkeeper.quota.audit.report import AuditReport

_window_of = itemgetter(*map(EntryFacts._fields.index, ("tenant_id", "window_id")))
MAX_CACHED = 50_000
"""Windows, and owners of quotas, that are kept in memory."""
_WINDOWS = text(
    "SELECT windows.tenant_id, windows.id, quota_id, starts_ms, ends_ms, unit, quotas.tenant_id AS owner_tenant_id,"
    " user_id, kind, subject, value FROM windows LEFT JOIN quotas ON quotas.id = quota_id"
    " WHERE windows.tenant_id IN :tenants AND windows.id IN :windows"
).bindparams(bindparam("tenants", expanding=True), bindparam("windows", expanding=True))
_QUOTA_COLUMNS = (
    "id, tenant_id, user_id, kind, subject, unit, period, (SELECT coalesce((SELECT at_ms FROM entries"
    " WHERE entries.tenant_id = windows.tenant_id AND window_id = windows.id AND entries.sequence = 1),"
    " CAST(:cut_ms AS BIGINT)) FROM windows WHERE windows.tenant_id = quotas.tenant_id"
    " AND quota_id = quotas.id AND value = '' ORDER BY starts_ms LIMIT 1) AS since_ms,"
    " CASE WHEN removed_ms < :cut_ms THEN removed_ms WHEN removed_ms IS NOT NULL THEN (SELECT at_ms FROM entries"
    " WHERE entries.tenant_id = quotas.tenant_id AND window_id = (SELECT id FROM windows"
    " WHERE windows.tenant_id = quotas.tenant_id AND quota_id = quotas.id AND value = '' AND starts_ms <= removed_ms"
    " ORDER BY starts_ms DESC LIMIT 1) AND kind = 'remove' ORDER BY entries.sequence DESC LIMIT 1) END AS removed_ms"
)
"""If the first entry of a quota is archived, the quota is older than every charge that is not. A removal counts if it
has its entry, or if that may be archived.
"""
_QUOTAS = text(
    f"SELECT {_QUOTA_COLUMNS} FROM quotas WHERE user_id IN :users"
    f" UNION ALL SELECT {_QUOTA_COLUMNS} FROM quotas WHERE user_id IS NULL AND tenant_id IN :tenants"
).bindparams(bindparam("users", expanding=True), bindparam("tenants", expanding=True))


class ChargeAudit:
    """Checks charges, and entries that belong to none, up to the id `newest`, from a position on.

    Charges that servers make meanwhile are left for the next time: else it would not end beside servers that make them
    as fast as they are read.
    """

    def __init__(
        self, database: Database, report: AuditReport, chunk: int, newest: str, cut: Cut, position: Position = BEGIN
    ) -> None:
        self._database = database
        self._report = report
        self._reader = ChargeReader(database, newest, max(1, chunk // 5), cut.month)
        self._cut_ms = cut.ends_ms
        self.position = position
        self._windows: dict[Key, WindowFacts] = {}
        self._quotas = QuotasByOwner()
        self._undecided = 0

    async def check(self) -> AsyncIterator[None]:
        """Check all charges behind the position, a chunk at a time. Raises DatabaseUnavailable."""
        while self.position != END:
            last, found = await self._reader.read_next(self.position)
            await self._check_chunk(found, partial(self._reader.read_at_once, self.position, last))
            self.position = last
            yield

    async def check_some(self, tenant_id: int, ids: Sequence[str]) -> None:
        """Check these charges of a tenant. Raises DatabaseUnavailable."""
        reader = self._reader
        found = await reader.read_charges(tenant_id, ids)
        await self._check_chunk(found, partial(reader.read_charges_at_once, tenant_id, ids))

    async def _check_chunk(self, found: Chunk, read_at_once: Callable[[], Awaitable[Chunk]]) -> None:
        await self._load_facts(found)
        if problems := list(self._problems(found)):
            found = await read_at_once()
            await self._load_facts(found)
            problems = list(self._problems(found))
        self._report.add(problems)
        self._report.undecided += self._undecided
        self._report.charges += len(found.charges)
        self._report.overruns += sum(bool(charge.overrun) for charge in found.charges)

    def _problems(self, found: Chunk) -> Iterator[Problem]:
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
            yield from map(orphan_problem, map(EntryFacts._make, entries))

    async def _load_facts(self, found: Chunk) -> None:
        """Load the windows and quotas of a chunk that are not in memory."""
        needed = set(map(_window_of, chain.from_iterable(found.entries.values())))
        if missing := needed - self._windows.keys():
            if len(self._windows) > MAX_CACHED:
                self._windows.clear()
                missing = needed
            tenants, windows = sorted({tenant for tenant, _ in missing}), sorted({window for _, window in missing})
            for row in await read_values(self._database, _WINDOWS, tenants=tenants, windows=windows):
                self._windows[row[:2]] = WindowFacts._make(row[2:])
        if len(self._quotas) > MAX_CACHED:
            self._quotas.clear()
        users, tenants = self._quotas.unknown(found.charges)
        if users or tenants:
            rows = await read_values(self._database, _QUOTAS, users=users, tenants=tenants, cut_ms=self._cut_ms)
            quotas = map(QuotaFacts._make, rows)
            self._quotas.add(users, tenants, (quota for quota in quotas if quota.since_ms is not None))
