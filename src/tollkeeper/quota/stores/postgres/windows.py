"""The windows of a batch on PostgreSQL: found by number where known, created where there is none, locked in order."""

from collections.abc import Sequence

import asyncpg

from tollkeeper.quota.rules.page import EntryRow, Hold, Page, QuotaRow, WindowRow
from tollkeeper.quota.rules.windows import span
from tollkeeper.quota.stores.rows import PolicyCache, opening_entry, quota_row, window_row

Connection = "asyncpg.Connection[asyncpg.Record]"
MAX_KNOWN = 100_000

_FIND = (
    "SELECT windows.id, windows.quota_id, windows.starts_ms FROM windows"
    " JOIN unnest($1::integer[], $2::bigint[]) AS wanted (quota_id, starts_ms)"
    " ON windows.quota_id = wanted.quota_id AND windows.starts_ms = wanted.starts_ms"
)
_LOCK = (
    "SELECT id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence FROM windows"
    " WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE"
)
_OPEN = (
    "INSERT INTO windows (quota_id, starts_ms, ends_ms, granted, sequence)"
    " SELECT quotas.id, wanted.starts_ms, wanted.ends_ms, quotas.granted, 1"
    " FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS wanted (quota_id, starts_ms, ends_ms)"
    " JOIN quotas ON quotas.id = wanted.quota_id ORDER BY quotas.id"
    " ON CONFLICT (quota_id, starts_ms) DO NOTHING"
    " RETURNING id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence"
)
_QUOTAS = "SELECT id, tenant_id, user_id, unit, period, granted FROM quotas WHERE id = ANY($1::integer[])"
_ENTRY = (
    f"INSERT INTO entries ({', '.join(EntryRow._fields)})"
    f" VALUES ({', '.join(f'${number}' for number in range(1, len(EntryRow._fields) + 1))})"
)


class Windows:
    """Remembers the numbers of windows that are known to be committed; windows are never deleted."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}
        self._fresh: dict[tuple[int, int], int] = {}

    def committed(self) -> None:
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        self._known.update(self._fresh)
        self._fresh.clear()

    def forget_uncommitted(self) -> None:
        self._fresh.clear()

    async def read(
        self,
        connection: "asyncpg.Connection[asyncpg.Record]",
        page: Page,
        policy: PolicyCache,
        holds: Sequence[tuple[str, int, int]],
    ) -> None:
        """Fill `page.current` and `page.holds` with windows that are locked from here on."""
        quotas = {quota.id: quota for account in page.accounts.values() for quota in account.quotas}
        quotas.update((quota.id, quota) for quota in page.quotas.values())
        wanted = {(quota.id, span(quota.key.period, page.now_ms)[0]): quota for quota in quotas.values()}
        await self._find(connection, page, wanted)
        current = {key: self._fresh.get(key) or self._known[key] for key in wanted}
        numbers = sorted({*current.values(), *(window_id for _, window_id, _ in holds)})
        rows = await connection.fetch(_LOCK, numbers) if numbers else []
        await self._read_quotas_of(connection, policy, rows, quotas)
        windows = {row[0]: window_row(row, quotas.get(row[1]) or policy.quotas[row[1]]) for row in rows}
        for (quota_id, _), window_id in current.items():
            page.current[quota_id] = windows[window_id]
        for charge_id, window_id, pending in holds:
            page.holds.setdefault(charge_id, []).append(Hold(windows[window_id], pending))

    async def _find(
        self,
        connection: "asyncpg.Connection[asyncpg.Record]",
        page: Page,
        wanted: dict[tuple[int, int], QuotaRow],
    ) -> None:
        """Learn the numbers of windows not seen before, creating those that nobody has created yet."""
        unknown = [key for key in wanted if key not in self._known]
        if not unknown:
            return
        await self._learn(connection, unknown)
        missing = sorted(key for key in unknown if key not in self._fresh)
        if not missing:
            return
        await connection.execute("SELECT 1 FROM policy FOR SHARE")
        spans = [(quota_id, *span(wanted[quota_id, starts].key.period, page.now_ms)) for quota_id, starts in missing]
        opened: list[WindowRow] = [
            window_row(row, wanted[row[1], row[2]]) for row in await connection.fetch(_OPEN, *zip(*spans, strict=True))
        ]
        await connection.executemany(_ENTRY, [opening_entry(window, page.now_ms) for window in opened])
        page.opened_windows = bool(opened)
        await self._learn(connection, missing)

    async def _learn(self, connection: "asyncpg.Connection[asyncpg.Record]", keys: Sequence[tuple[int, int]]) -> None:
        found = await connection.fetch(_FIND, *zip(*keys, strict=True))
        self._fresh.update({(quota_id, starts_ms): window_id for window_id, quota_id, starts_ms in found})

    async def _read_quotas_of(
        self,
        connection: "asyncpg.Connection[asyncpg.Record]",
        policy: PolicyCache,
        rows: Sequence[asyncpg.Record],
        at_hand: dict[int, QuotaRow],
    ) -> None:
        """The quotas of windows that nobody in this batch reserves on: only their names and units matter."""
        unknown = {row[1] for row in rows} - at_hand.keys() - policy.quotas.keys()
        if unknown:
            for row in await connection.fetch(_QUOTAS, sorted(unknown)):
                policy.quotas[row[0]] = quota_row(row)
