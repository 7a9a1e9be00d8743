"""Reads the page of a batch on SQLite, and caches rows between batches.

The cache is valid until another connection commits, which changes `PRAGMA data_version` (SQLite manual, "PRAGMA
data_version"). So an installation of one process reads each row once.
"""

import sqlite3
from collections.abc import Mapping

from tollkeeper.quota.rules.accounts import sort_quotas
from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS, ChargeRow
from tollkeeper.quota.rules.page import (
    Account,
    Page,
    QuotaRow,
    ReadSet,
    Slot,
    Succession,
    WindowHold,
    WindowRow,
)
from tollkeeper.quota.rules.tag_rules import UNTAGGED, TagRules
from tollkeeper.quota.rules.templates import lags
from tollkeeper.quota.rules.temporary import NO_TEMPORARY
from tollkeeper.quota.stores.rows import (
    APPLIES,
    FIND_ARCHIVED_MONTH,
    GROUPS_OF_USER,
    HAS_TAGS,
    MAX_CLOCK_SKEW_MS,
    NOT_OF_TAGS,
    QUOTA_COLUMNS,
    QUOTAS,
    WINDOW_COLUMNS,
    as_due,
    is_overridden,
    may_be_archived,
    new_window,
    place_of,
    quota_row,
    window_row,
    with_rollover,
)
from tollkeeper.quota.stores.sqlite.idempotency_keys import read_keys
from tollkeeper.quota.stores.sqlite.new_windows import create_window
from tollkeeper.quota.stores.sqlite.quotas import QUOTAS_OF_TENANTS, QUOTAS_OF_USERS, find_quota
from tollkeeper.quota.stores.sqlite.tags import read_tags
from tollkeeper.quota.stores.sqlite.temporary import read_temporary, write_what_is_due
from tollkeeper.quota.time_sorted_ids import month_of

MAX_CACHED_ROWS = 50_000
"""Windows or accounts. A cache with more is cleared."""

_READ_CHARGE = f"SELECT {', '.join(CHARGE_COLUMNS)} FROM charges WHERE tenant_id = ? AND month = ? AND id = ?"
_READ_HOLDS = (
    "SELECT window_id, pending FROM entries INDEXED BY entries_of_source"
    " WHERE tenant_id = ? AND source_id = ? AND month = ?"
)
"""Without statistics, SQLite would rather read all entries of the tenant in the order of the primary key."""
_READ_WINDOW = f"SELECT {WINDOW_COLUMNS} FROM windows WHERE tenant_id = ? AND id = ?"
_LAST_STARTED = "WHERE tenant_id = ? AND quota_id = ? AND value = ? AND starts_ms <= ? ORDER BY starts_ms DESC LIMIT 1"
_FIND_WINDOW = _READ_WINDOW.replace("WHERE tenant_id = ? AND id = ?", _LAST_STARTED)
"""The last window of a quota that has started: the current one, or the previous one."""
_FIND_NEXT_START = (
    "SELECT min(starts_ms) FROM windows WHERE tenant_id = ? AND quota_id = ? AND value = ? AND starts_ms > ?"
)
_READ_ACCOUNT = (
    "SELECT users.tenant_id, users.disabled_at IS NULL AND tenants.disabled_at IS NULL, users.token_version,"
    f" {HAS_TAGS} FROM users JOIN tenants ON tenants.id = users.tenant_id WHERE users.tenant_id = ? AND users.id = ?"
)
_READ_KEYS_AND_GROUPS = (
    "SELECT id, expires_ms, NULL, NULL FROM api_keys"
    " WHERE tenant_id = :tenant_id AND user_id = :user_id AND revoked_ms IS NULL"
    f" UNION ALL SELECT user_groups.name, NULL, user_groups.id, is_default FROM {GROUPS_OF_USER}"
    " AND group_members.tenant_id = :tenant_id AND group_members.user_id = :user_id"
)
_READ_REVOKED_SESSIONS = (
    "SELECT id FROM sessions WHERE tenant_id = ? AND user_id = ? AND revoked_ms IS NOT NULL AND access_ends_ms > ?"
)
_READ_QUOTAS = (
    f"SELECT {QUOTA_COLUMNS} FROM {QUOTAS_OF_USERS} WHERE quotas.tenant_id = ? AND user_id = ? AND {APPLIES}"
    f" UNION ALL SELECT {QUOTA_COLUMNS} FROM {QUOTAS_OF_TENANTS}"
    f" WHERE quotas.tenant_id = ? AND user_id IS NULL AND {APPLIES} AND {NOT_OF_TAGS}"
    " AND (quotas.kind <> 'group' OR CAST(quotas.subject AS INTEGER) IN"
    " (SELECT group_id FROM group_members WHERE group_members.tenant_id = quotas.tenant_id"
    " AND group_members.user_id = ?)) ORDER BY 1"
)
_READ_QUOTA = f"SELECT {QUOTA_COLUMNS} FROM {QUOTAS} WHERE quotas.tenant_id = ? AND quotas.id = ?"


class RowCache:
    """The rows as last read or written. Each window is one object, so all charges of a batch see the same balances."""

    def __init__(self) -> None:
        self._version: int | None = None
        self._accounts: dict[int, Account] = {}
        self._tags: dict[int, TagRules] = {}
        self._quotas: dict[int, QuotaRow] = {}
        self._windows: dict[int, WindowRow] = {}
        self._current: dict[Slot, WindowRow] = {}
        self._charges: dict[str, tuple[ChargeRow, list[WindowHold]]] = {}

    def clear(self) -> None:
        """Remove everything. After a batch that failed, the cached rows may have its changes."""
        self._version = None
        for rows in (self._accounts, self._tags, self._quotas, self._windows, self._current, self._charges):
            rows.clear()

    def read(self, connection: sqlite3.Connection, read_set: ReadSet, now_ms: int) -> Page:
        """The page of a batch, in its transaction, which holds the write lock."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        is_full = max(len(self._windows), len(self._accounts)) > MAX_CACHED_ROWS
        if version != self._version or is_full:
            self.clear()
            self._version = version
        page = Page(now_ms)
        for charge_id, tenant_id in read_set.charges.items():
            self._read_charge(connection, page, charge_id, tenant_id)
        for key in read_set.quotas | read_set.quotas_to_create:
            quota = find_quota(connection, key, create=key in read_set.quotas_to_create)
            if quota is not None:
                page.quotas[key] = quota
                self._read_current(connection, page, quota)
        callers = self._read_accounts(connection, page, read_set.callers)
        for quota in read_set.quotas_of(callers):
            self._read_current(connection, page, quota)
        readers = self._read_accounts(connection, page, read_set.readers)
        for quota in read_set.quotas_of_readers(readers):
            self._read_for_reader(connection, page, quota)
        if read_set.keys:
            page.keys = read_keys(connection, read_set.keys)
        if may_be_archived(read_set.charges):
            (page.archived_month,) = connection.execute(FIND_ARCHIVED_MONTH).fetchone()
        write_what_is_due(connection, page)
        for source_id, tenant_id in read_set.sources.items():
            if connection.execute(_READ_HOLDS, (tenant_id, source_id, month_of(source_id))).fetchone():
                page.committed_sources.add(source_id)
        return page

    def committed(self, page: Page) -> None:
        """After the commit: add new charges, remove closed ones; clear the cache if the batch changed quotas."""
        for charge in page.new_charges:
            self._charges[charge.id] = charge, page.holds[charge.id]
        for charge_id, charge in page.changed_charges.items():
            if not charge.open:
                self._charges.pop(charge_id, None)
        if page.quotas:
            self.clear()

    def _read_charge(self, connection: sqlite3.Connection, page: Page, charge_id: str, tenant_id: int) -> None:
        cached = self._charges.get(charge_id)
        if cached is None:
            row = connection.execute(_READ_CHARGE, (tenant_id, month_of(charge_id), charge_id)).fetchone()
            if row is None:
                return
            charge = ChargeRow(*row)
            cached = charge, self._read_holds(connection, charge)
        page.charges[charge_id], page.holds[charge_id] = cached

    def _read_holds(self, connection: sqlite3.Connection, charge: ChargeRow) -> list[WindowHold]:
        pending: dict[int, int] = {}
        for window_id, amount in connection.execute(_READ_HOLDS, (charge.tenant_id, charge.id, charge.month)):
            pending[window_id] = pending.get(window_id, 0) + amount
        tenant_id = charge.tenant_id
        return [WindowHold(self._read_window(connection, tenant_id, one), amount) for one, amount in pending.items()]

    def _read_accounts(
        self, connection: sqlite3.Connection, page: Page, users: Mapping[int, int]
    ) -> dict[int, Account]:
        """The accounts of these users (id → tenant id), which are put on the page."""
        accounts = {}
        for user_id, tenant_id in users.items():
            account = self._find_account(connection, tenant_id, user_id, page.now_ms)
            if account is not None:
                page.accounts[user_id] = accounts[user_id] = account
        return accounts

    def _find_account(
        self, connection: sqlite3.Connection, tenant_id: int, user_id: int, now_ms: int
    ) -> Account | None:
        cached = self._accounts.get(user_id)
        if cached is not None and cached.tenant_id == tenant_id:
            return cached
        return self._read_account(connection, tenant_id, user_id, now_ms)

    def _read_account(
        self, connection: sqlite3.Connection, tenant_id: int, user_id: int, now_ms: int
    ) -> Account | None:
        caller = tenant_id, user_id
        row = connection.execute(_READ_ACCOUNT, caller).fetchone()
        if row is None:
            return None
        tenant_id, active, token_version, has_tags = row
        quotas = connection.execute(_READ_QUOTAS, (tenant_id, user_id, tenant_id, user_id)).fetchall()
        api_keys, groups, default_group = {}, {}, None
        found = connection.execute(_READ_KEYS_AND_GROUPS, {"tenant_id": tenant_id, "user_id": user_id}).fetchall()
        for name, expires_ms, group_id, is_default in found:
            if group_id is None:
                api_keys[name] = expires_ms
            else:
                groups[name] = group_id
                default_group = group_id if is_default else default_group
        revoked = connection.execute(_READ_REVOKED_SESSIONS, (*caller, now_ms - MAX_CLOCK_SKEW_MS)).fetchall()
        always, parts = sort_quotas(user_id, map(quota_row, quotas))
        tags = UNTAGGED
        if has_tags:
            tags = self._tags[tenant_id] = self._tags.get(tenant_id) or read_tags(connection, tenant_id)
        account = Account(
            tenant_id,
            bool(active),
            token_version,
            always,
            api_keys,
            frozenset(session_id for (session_id,) in revoked),
            parts,
            groups,
            default_group,
            tags,
        )
        self._accounts[user_id] = account
        return account

    def _read_current(self, connection: sqlite3.Connection, page: Page, quota: QuotaRow) -> None:
        """Read the quota's current window, and create it if it does not exist."""
        if quota.slot not in page.current_windows:
            window = self._find_current(connection, page, quota)
            if window is None:
                previous = self._find_last(connection, page, quota) if quota.rollover_cap is not None else None
                window = create_window(connection, page, self._new_window(connection, page, quota))
                if previous is not None:
                    page.successions.append(Succession(window, previous))
                self._windows[window.id] = self._current[quota.slot] = window
            page.current_windows[quota.slot] = window

    def _read_for_reader(self, connection: sqlite3.Connection, page: Page, quota: QuotaRow) -> None:
        """Read the quota's current window for a call that costs nothing: to be changed only where such calls count."""
        read = self._read_current if quota.counts_free_calls else self._show_current
        read(connection, page, quota)

    def _show_current(self, connection: sqlite3.Connection, page: Page, quota: QuotaRow) -> None:
        """Read the quota's current window. One that does not exist is shown as it would begin, but not created."""
        if quota.slot not in page.current_windows:
            window = self._find_current(connection, page, quota)
            if window is not None:
                is_due = window.due_ms is not None and window.due_ms <= page.now_ms
                temporary = read_temporary(connection, {quota.id}, window.due_ms or 0)[quota.id] if is_due else None
                window = as_due(window, temporary, page.now_ms) if is_due or lags(window) else window
            page.shown_windows[quota.slot] = window or self._shown_window(connection, page, quota)

    def _find_current(self, connection: sqlite3.Connection, page: Page, quota: QuotaRow) -> WindowRow | None:
        """The stored window that covers now, whatever the calendar says by now."""
        window = self._current.get(quota.slot)
        if window is None or not window.covers(page.now_ms):
            window = self._find_last(connection, page, quota)
            if window is None or not window.covers(page.now_ms):
                return None
            self._windows[window.id] = self._current[quota.slot] = window
        return window

    def _find_last(self, connection: sqlite3.Connection, page: Page, quota: QuotaRow) -> WindowRow | None:
        row = connection.execute(_FIND_WINDOW, place_of(quota, page.now_ms)).fetchone()
        return None if row is None else self._windows.get(row[0]) or window_row(row, quota)

    def _shown_window(self, connection: sqlite3.Connection, page: Page, quota: QuotaRow) -> WindowRow:
        """The window that would begin now."""
        window, previous = self._new_window(connection, page, quota), self._find_last(connection, page, quota)
        if previous is None or quota.rollover_cap is None:
            return window
        overrides = read_temporary(connection, {quota.id}, previous.ends_ms or 0)[quota.id].rows
        return with_rollover(window, previous, overrides)

    def _new_window(self, connection: sqlite3.Connection, page: Page, quota: QuotaRow) -> WindowRow:
        """The window that begins now, between the stored ones."""
        previous = self._find_last(connection, page, quota)
        (next_start_ms,) = connection.execute(_FIND_NEXT_START, place_of(quota, page.now_ms)).fetchone()
        temporary = NO_TEMPORARY
        if is_overridden(quota, page.now_ms):
            temporary = read_temporary(connection, {quota.id}, page.now_ms)[quota.id].rows
        previous_end_ms = previous.ends_ms if previous is not None else None
        return new_window(quota, page.now_ms, previous_end_ms, next_start_ms, temporary)

    def _read_window(self, connection: sqlite3.Connection, tenant_id: int, window_id: int) -> WindowRow:
        window = self._windows.get(window_id)
        if window is None:
            row = connection.execute(_READ_WINDOW, (tenant_id, window_id)).fetchone()
            quota = self._quotas.get(row[1])
            if quota is None:
                quota = quota_row(connection.execute(_READ_QUOTA, (tenant_id, row[1])).fetchone())
                self._quotas[quota.id] = quota
            window = self._windows[window_id] = window_row(row, quota)
        return window
