"""Reads windows on PostgreSQL: finds their ids, creates missing ones, and locks them in order of id."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tollkeeper.quota.rules.page import Account, EntryRow, Page, QuotaRow, ReadSet, WindowHold, WindowRow
from tollkeeper.quota.rules.windows import span
from tollkeeper.quota.stores.postgres.connection import Connection
from tollkeeper.quota.stores.postgres.locked_rows import LockedRows
from tollkeeper.quota.stores.postgres.locking_read import Found
from tollkeeper.quota.stores.postgres.policy_cache import PolicyCache
from tollkeeper.quota.stores.rows import opening_entry, quota_row, window_row

MAX_KNOWN_WINDOWS = 100_000

_FIND_WINDOWS = (
    "SELECT found.id, wanted.quota_id, wanted.starts_ms"
    " FROM unnest($1::integer[], $2::integer[], $3::bigint[]) AS wanted (tenant_id, quota_id, starts_ms),"
    " LATERAL (SELECT id FROM windows WHERE tenant_id = wanted.tenant_id AND quota_id = wanted.quota_id"
    " AND starts_ms = wanted.starts_ms LIMIT 1) AS found"
)
_LOCK_WINDOWS = (
    "SELECT found.* FROM unnest($1::integer[], $2::bigint[]) AS wanted (tenant_id, id), LATERAL"
    " (SELECT id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence FROM windows"
    " WHERE tenant_id = wanted.tenant_id AND id = wanted.id FOR UPDATE) AS found"
)
_CREATE_WINDOWS = (
    "INSERT INTO windows (tenant_id, quota_id, starts_ms, ends_ms, granted, sequence)"
    " SELECT quotas.tenant_id, quotas.id, wanted.starts_ms, wanted.ends_ms, quotas.granted, 1"
    " FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS wanted (quota_id, starts_ms, ends_ms)"
    " JOIN quotas ON quotas.id = wanted.quota_id ORDER BY quotas.id"
    " ON CONFLICT (tenant_id, quota_id, starts_ms) DO NOTHING"
    " RETURNING id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence"
)
_LOCK_QUOTAS = "SELECT 1 FROM quotas WHERE id = ANY($1::integer[]) ORDER BY id FOR SHARE"
"""Taken before a window is created. Else its quota's limit could be changed at the same time, and be missed."""
_READ_QUOTAS = "SELECT id, tenant_id, user_id, unit, period, granted FROM quotas WHERE id = ANY($1::integer[])"
_INSERT_ENTRY = (
    f"INSERT INTO entries ({', '.join(EntryRow._fields)})"
    f" VALUES ({', '.join(f'${number}' for number in range(1, len(EntryRow._fields) + 1))})"
)


class StaleMemory(Exception):
    """The database does not have a window that it had before: it was restored to an earlier state."""


class WrongGuess(Exception):
    """The batch needs a window that it has not locked, after it locked others. That could be out of order."""


class WindowReader:
    """Reads windows, and remembers the ids of committed ones by (quota id, start). Windows are never deleted."""

    def __init__(self, locked: LockedRows) -> None:
        self._locked = locked
        self._known: dict[tuple[int, int], int] = {}
        self._uncommitted: dict[tuple[int, int], int] = {}

    def committed(self) -> None:
        """After the commit: keep the ids that were found or created."""
        if len(self._known) > MAX_KNOWN_WINDOWS:
            self._known.clear()
        self._known.update(self._uncommitted)
        self._uncommitted.clear()

    def clear_uncommitted(self) -> None:
        """After a batch that failed: discard its ids."""
        self._uncommitted.clear()

    def clear(self) -> None:
        """Remove everything that was remembered."""
        self._known.clear()
        self._uncommitted.clear()

    def guess(self, accounts: Iterable[Account], now_ms: int) -> dict[int, int] | None:
        """The current windows of these accounts at about this time (id → tenant id); None if one is not known."""
        guessed = {}
        for account in accounts:
            for quota in account.quotas:
                window_id = self._known.get((quota.id, span(quota.key.period, now_ms)[0]))
                if window_id is None:
                    return None
                guessed[window_id] = account.tenant_id
        return guessed

    async def fill(
        self,
        connection: Connection,
        page: Page,
        policy: PolicyCache,
        found: Found,
        locked: ReadSet,
    ) -> None:
        """Fill `page.current_windows`, with the windows of the page's quotas, and `page.holds`.

        Windows that `found` lacks are created, locked and read. What needs a locked window is added to `locked`. Raises
        WrongGuess if windows are locked already, but not all that are needed; StaleMemory.
        """
        quotas = {quota.id: quota for account in page.accounts.values() for quota in account.quotas}
        quotas.update((quota.id, quota) for quota in page.quotas.values())
        wanted = {(quota.id, span(quota.key.period, page.now_ms)[0]): quota for quota in quotas.values()}
        if found.windows is None:
            await self._find_or_create(connection, page, wanted)
        current = {key: self._uncommitted.get(key) or self._known.get(key) for key in wanted}
        tenants = {window_id: page.charges[charge_id].tenant_id for charge_id, window_id, _ in found.holds}
        for key, window_id in current.items():
            if window_id is not None:
                tenants[window_id] = wanted[key].key.subject.tenant_id
        ids = tenants.keys() - {*map(int, self._locked.among("windows", tenants.keys()))}
        rows: Sequence[Sequence[Any]] | None = found.windows
        if rows is None:
            rows = await _lock(connection, {id_: tenants[id_] for id_ in sorted(ids)})
        await _read_missing_quotas(connection, policy, rows, quotas)
        windows = {row[0]: window_row(row, quotas.get(row[1]) or policy.quotas[row[1]]) for row in rows}
        if found.windows is not None and (None in current.values() or ids - windows.keys()):
            raise WrongGuess
        if ids - windows.keys():
            raise StaleMemory
        for (quota_id, starts_ms), window_id in current.items():
            if window_id in windows:
                window = page.current_windows[quota_id] = windows[window_id]
                if (window.quota.id, window.starts_ms) != (quota_id, starts_ms):
                    raise StaleMemory
        _fill_holds(page, found.holds, windows, locked)
        if self._locked:
            _find_locked_owners(page, locked)

    async def _find_or_create(
        self, connection: Connection, page: Page, wanted: dict[tuple[int, int], QuotaRow]
    ) -> None:
        """Find the ids of windows that are not known yet, and create the windows that do not exist."""
        unknown = [key for key in wanted if key not in self._known]
        if not unknown:
            return
        await self._find(connection, wanted, unknown)
        missing = [key for key in unknown if key not in self._uncommitted]
        locked_quotas = self._locked.among("quotas", {quota_id for quota_id, _ in missing})
        missing = sorted(key for key in missing if key[0] not in locked_quotas)
        if not missing:
            return
        await connection.execute(_LOCK_QUOTAS, sorted({quota_id for quota_id, _ in missing}))
        spans = [(quota_id, *span(wanted[quota_id, starts].key.period, page.now_ms)) for quota_id, starts in missing]
        rows = await connection.fetch(_CREATE_WINDOWS, *zip(*spans, strict=True))
        created: list[WindowRow] = [window_row(row, wanted[row[1], row[2]]) for row in rows]
        await connection.executemany(_INSERT_ENTRY, [opening_entry(window, page.now_ms) for window in created])
        page.has_new_windows = bool(created)
        await self._find(connection, wanted, missing)

    async def _find(
        self, connection: Connection, wanted: dict[tuple[int, int], QuotaRow], keys: Sequence[tuple[int, int]]
    ) -> None:
        tenants = [wanted[key].key.subject.tenant_id for key in keys]
        found = await connection.fetch(_FIND_WINDOWS, tenants, *zip(*keys, strict=True))
        self._uncommitted.update({(quota_id, starts_ms): window_id for window_id, quota_id, starts_ms in found})


async def _lock(connection: Connection, tenants: Mapping[int, int]) -> Sequence[Sequence[Any]]:
    """Lock windows (id → tenant id) in this order. Returns the rows of those that exist."""
    if not tenants:
        return []
    rows: Sequence[Sequence[Any]] = await connection.fetch(_LOCK_WINDOWS, [*tenants.values()], [*tenants])
    return rows


async def _read_missing_quotas(
    connection: Connection, policy: PolicyCache, rows: Sequence[Sequence[Any]], page_quotas: dict[int, QuotaRow]
) -> None:
    """Read the quotas of windows that no reserve of this batch uses. Only their names and units matter."""
    unknown = {row[1] for row in rows} - page_quotas.keys() - policy.quotas.keys()
    if unknown:
        for row in await connection.fetch(_READ_QUOTAS, sorted(unknown)):
            policy.quotas[row[0]] = quota_row(row)


def _fill_holds(
    page: Page, holds: Sequence[tuple[str, int, int]], windows: Mapping[int, WindowRow], locked: ReadSet
) -> None:
    """Fill `page.holds`, and add the charges to `locked` that hold in a locked window."""
    for charge_id, window_id, pending in holds:
        if window_id in windows:
            page.holds[charge_id].append(WindowHold(windows[window_id], pending))
        else:
            locked.charges[charge_id] = page.charges[charge_id].tenant_id


def _find_locked_owners(page: Page, locked: ReadSet) -> None:
    """Add the callers and quotas to `locked` that lack a current window: another session keeps it locked."""
    for user_id, account in page.accounts.items():
        if any(quota.id not in page.current_windows for quota in account.quotas):
            locked.callers[user_id] = account.tenant_id
    locked.quotas.update(key for key, quota in page.quotas.items() if quota.id not in page.current_windows)
