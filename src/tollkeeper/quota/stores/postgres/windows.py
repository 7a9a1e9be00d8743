"""Reads windows on PostgreSQL: finds their ids, creates missing ones, and locks them in order of id."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tollkeeper.quota.rules.page import (
    Account,
    EntryRow,
    Page,
    QuotaRow,
    ReadSet,
    Slot,
    Succession,
    WindowHold,
    WindowRow,
)
from tollkeeper.quota.rules.subjects import slot_of
from tollkeeper.quota.rules.temporary import NO_TEMPORARY, Temporary
from tollkeeper.quota.stores.postgres.connection import Connection
from tollkeeper.quota.stores.postgres.locked_rows import LockedRows
from tollkeeper.quota.stores.postgres.locking_read import Found
from tollkeeper.quota.stores.postgres.policy_cache import PolicyCache
from tollkeeper.quota.stores.postgres.temporary import read_temporary
from tollkeeper.quota.stores.rows import (
    QUOTA_COLUMNS,
    QUOTAS,
    TERMS,
    WINDOW_COLUMNS,
    is_overridden,
    keys_of,
    new_window,
    opening_entries,
    quota_row,
    rolls_over,
    window_row,
)

MAX_KNOWN_WINDOWS = 100_000
NONE_TEMPORARY: Mapping[int, Temporary] = {}

AROUND_NOW = (
    " FROM unnest($1::integer[], $2::integer[], $3::text[]) AS wanted (tenant_id, quota_id, value)"
    f" LEFT JOIN LATERAL (SELECT {WINDOW_COLUMNS} FROM windows"
    " WHERE tenant_id = wanted.tenant_id AND quota_id = wanted.quota_id AND value = wanted.value AND starts_ms <= $4"
    " ORDER BY starts_ms DESC LIMIT 1) AS found ON true"
)
"""The last window of each quota that has started: the current one, or the previous one."""
_FIND_WINDOWS = (
    "SELECT wanted.quota_id, wanted.value, found.id, found.starts_ms, found.ends_ms, later.starts_ms"
    f"{AROUND_NOW} LEFT JOIN LATERAL (SELECT starts_ms FROM windows WHERE tenant_id = wanted.tenant_id"
    " AND quota_id = wanted.quota_id AND value = wanted.value AND starts_ms > $4"
    " ORDER BY starts_ms LIMIT 1) AS later ON true"
)
_LOCK_WINDOWS = (
    "SELECT found.* FROM unnest($1::integer[], $2::bigint[]) AS wanted (tenant_id, id), LATERAL"
    f" (SELECT {WINDOW_COLUMNS} FROM windows"
    " WHERE tenant_id = wanted.tenant_id AND id = wanted.id FOR UPDATE) AS found"
)
_CREATE_WINDOWS = (
    f"INSERT INTO windows (tenant_id, quota_id, starts_ms, ends_ms, granted, sequence, {', '.join(TERMS)}, value)"
    " SELECT * FROM unnest($1::integer[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],"
    f" $7::boolean[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[]) RETURNING {WINDOW_COLUMNS}"
)
_LOCK_QUOTAS = (
    f"SELECT {QUOTA_COLUMNS} FROM {QUOTAS} WHERE quotas.id = ANY($1::integer[]) ORDER BY quotas.id"
    " FOR NO KEY UPDATE OF quotas"
)
"""Taken before a window is created. Else its quota's limit could be changed at the same time, and be missed; or another
process could create a window that overlaps it, by another calendar of the tenant.
"""
_READ_QUOTAS = f"SELECT {QUOTA_COLUMNS} FROM {QUOTAS} WHERE quotas.id = ANY($1::integer[])"
_INSERT_ENTRY = (
    f"INSERT INTO entries ({', '.join(EntryRow._fields)})"
    f" VALUES ({', '.join(f'${number}' for number in range(1, len(EntryRow._fields) + 1))})"
)


class StaleMemory(Exception):
    """The database does not have a window that it had before: it was restored to an earlier state."""


class WrongGuess(Exception):
    """The batch needs a window that it has not locked, after it locked others. That could be out of order."""


class _Known(NamedTuple):
    """A window that was found or created."""

    id: int
    starts_ms: int
    ends_ms: int | None

    def covers(self, now_ms: int) -> bool:
        return self.starts_ms <= now_ms and (self.ends_ms is None or now_ms < self.ends_ms)


class WindowReader:
    """Reads windows, and remembers the last committed one of each slot. Windows are never deleted."""

    def __init__(self, locked: LockedRows) -> None:
        self._locked = locked
        self._known: dict[Slot, _Known] = {}
        self._uncommitted: dict[Slot, _Known] = {}
        self._previous: dict[int, int] = {}
        """The id of the window before each one that the batch creates, of quotas whose unused rest rolls over."""
        self._before: dict[Slot, int | None] = {}
        """The id of the last window of each quota that was looked for."""

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

    def guess(
        self, read_set: ReadSet, accounts: Mapping[int, Account], readers: Mapping[int, Account], now_ms: int
    ) -> dict[int, int] | None:
        """The current windows of these accounts at about this time (id → tenant id); None if one is not known.

        Of `readers`, those that count calls which cost nothing.
        """
        guessed = {}
        quotas = [*read_set.quotas_of(accounts)]
        quotas += [quota for quota in read_set.quotas_of_readers(readers) if quota.counts_free_calls]
        for quota in quotas:
            known = self._known.get(quota.slot)
            if known is None or not known.covers(now_ms):
                return None
            guessed[known.id] = quota.key.subject.tenant_id
        return guessed

    async def fill(
        self,
        connection: Connection,
        page: Page,
        read_set: ReadSet,
        policy: PolicyCache,
        found: Found,
        locked: ReadSet,
        readers: Mapping[int, Account],
    ) -> None:
        """Fill `page.current_windows`, with the windows of the page's quotas and with those of `readers` that count
        calls which cost nothing, and `page.holds`.

        Windows that `found` lacks are created, locked and read. What needs a locked window is added to `locked`. Raises
        WrongGuess if windows are locked already, but not all that are needed; StaleMemory.
        """
        self._previous.clear()
        self._before.clear()
        quotas = {quota.slot: quota for quota in read_set.quotas_of(page.accounts)}
        quotas.update((quota.slot, quota) for quota in page.quotas.values())
        quotas.update((quota.slot, quota) for quota in read_set.quotas_of_readers(readers) if quota.counts_free_calls)
        if found.windows is None:
            await self._find_or_create(connection, page, quotas)
        current = {slot: self._covering(slot, page.now_ms) for slot in quotas}
        previous = self._previous
        tenants = {window_id: page.charges[charge_id].tenant_id for charge_id, window_id, _ in found.holds}
        for slot, known in current.items():
            if known is not None:
                tenants[known.id] = quotas[slot].key.subject.tenant_id
        tenants |= {old_id: tenants[new_id] for new_id, old_id in previous.items()}
        ids = tenants.keys() - {*map(int, self._locked.among("windows", tenants.keys()))}
        rows: Sequence[Sequence[Any]] | None = found.windows
        if rows is None:
            rows = await _lock(connection, {id_: tenants[id_] for id_ in sorted(ids)})
        await _read_missing_quotas(connection, policy, rows, quotas)
        owners = [quotas.get(slot_of(row[1], row[-1])) or policy.quotas[row[1]] for row in rows]
        windows = {row[0]: window_row(row, quota) for row, quota in zip(rows, owners, strict=True)}
        if found.windows is not None and (None in current.values() or ids - windows.keys()):
            raise WrongGuess
        if ids - windows.keys():
            raise StaleMemory
        for slot, known in current.items():
            if known is not None and known.id in windows:
                window = page.current_windows[slot] = windows[known.id]
                if (window.quota.slot, window.starts_ms, window.ends_ms) != (slot, *known[1:]):
                    raise StaleMemory
        page.successions = [Succession(windows[new], windows[old]) for new, old in previous.items()]
        _fill_holds(page, found.holds, windows, locked)
        if self._locked:
            _find_locked_owners(page, read_set, locked, readers)

    def _covering(self, slot: Slot, now_ms: int) -> _Known | None:
        """The window of a quota that covers now, if it is known."""
        known = self._uncommitted.get(slot) or self._known.get(slot)
        return known if known is not None and known.covers(now_ms) else None

    async def _find_or_create(self, connection: Connection, page: Page, quotas: Mapping[Slot, QuotaRow]) -> None:
        """Find the windows of now that are not known yet, and create those that do not exist."""
        unknown = [quota for quota in quotas.values() if self._covering(quota.slot, page.now_ms) is None]
        missing = await self._find(connection, page, unknown) if unknown else []
        locked_quotas = self._locked.among("quotas", {window.quota.id for window in missing})
        free = sorted({window.quota.id for window in missing} - locked_quotas)
        if not free:
            return
        locked = {row[0]: quota_row(row) for row in await connection.fetch(_LOCK_QUOTAS, free)}
        overridden = [quota_id for quota_id, quota in locked.items() if is_overridden(quota, page.now_ms)]
        temporary = await read_temporary(connection, overridden, page.now_ms) if overridden else {}
        wanted = [locked[one.quota.id].of(one.quota.value) for one in missing if one.quota.id in locked]
        missing = await self._find(connection, page, wanted, temporary)
        before = {window.quota.slot: self._before[window.quota.slot] for window in missing if rolls_over(window)}
        kept_locked = self._locked.among("windows", [id_ for id_ in before.values() if id_ is not None])
        missing = [window for window in missing if before.get(window.quota.slot) not in kept_locked]
        if not missing:
            return
        rows = await connection.fetch(_CREATE_WINDOWS, *zip(*map(_created_values, missing), strict=True))
        created = [window_row(row, locked[row[1]]) for row in rows]
        entries = [entry for window in created for entry in opening_entries(window, page.now_ms)]
        await connection.executemany(_INSERT_ENTRY, entries)
        page.has_new_windows = True
        for window in created:
            if (previous_id := before.get(window.quota.slot)) is not None:
                self._previous[window.id] = previous_id
        self._uncommitted |= {one.quota.slot: _Known(one.id, one.starts_ms, one.ends_ms) for one in created}

    async def _find(
        self,
        connection: Connection,
        page: Page,
        quotas: Sequence[QuotaRow],
        temporary: Mapping[int, Temporary] = NONE_TEMPORARY,
    ) -> list[WindowRow]:
        """Find the windows of these quotas that cover now. Returns the others as they would begin between their
        neighbours, in the order of quotas.
        """
        missing, by_slot = [], {quota.slot: quota for quota in quotas}
        for quota_id, value, window_id, starts_ms, ends_ms, next_start_ms in await connection.fetch(
            _FIND_WINDOWS, *keys_of(quotas), page.now_ms
        ):
            slot = slot_of(quota_id, value)
            known = _Known(window_id, starts_ms, ends_ms) if window_id is not None else None
            self._before[slot] = window_id
            if known is not None and known.covers(page.now_ms):
                self._uncommitted[slot] = known
            else:
                rows = temporary[quota_id].rows if quota_id in temporary else NO_TEMPORARY
                missing.append(new_window(by_slot[slot], page.now_ms, ends_ms, next_start_ms, rows))
        return sorted(missing, key=lambda window: (window.quota.id, window.quota.value))


def _created_values(window: WindowRow) -> tuple[Any, ...]:
    """What _CREATE_WINDOWS takes of a window."""
    times = window.starts_ms, window.ends_ms
    terms = window.report_only, window.override, window.due_ms, 0, window.base
    return window.tenant_id, window.quota.id, *times, window.granted, window.sequence, *terms, window.quota.value


async def _lock(connection: Connection, tenants: Mapping[int, int]) -> Sequence[Sequence[Any]]:
    """Lock windows (id → tenant id) in this order. Returns the rows of those that exist."""
    if not tenants:
        return []
    rows: Sequence[Sequence[Any]] = await connection.fetch(_LOCK_WINDOWS, [*tenants.values()], [*tenants])
    return rows


async def _read_missing_quotas(
    connection: Connection, policy: PolicyCache, rows: Sequence[Sequence[Any]], page_quotas: Mapping[Slot, QuotaRow]
) -> None:
    """Read the quotas of windows that no reserve of this batch uses. Only their names and units matter."""
    unknown = {row[1] for row in rows if slot_of(row[1], row[-1]) not in page_quotas} - policy.quotas.keys()
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


def _find_locked_owners(page: Page, read_set: ReadSet, locked: ReadSet, readers: Mapping[int, Account]) -> None:
    """Add the callers, readers and quotas to `locked` that lack a current window: another session keeps it locked."""
    for user_id, account in page.accounts.items():
        if any(quota.slot not in page.current_windows for quota in read_set.quotas_of({user_id: account})):
            locked.callers[user_id] = account.tenant_id
    for user_id, account in readers.items():
        counting = (quota for quota in read_set.quotas_of_readers({user_id: account}) if quota.counts_free_calls)
        if any(quota.slot not in page.current_windows for quota in counting):
            locked.readers[user_id] = account.tenant_id
    locked.quotas.update(key for key, quota in page.quotas.items() if quota.slot not in page.current_windows)
