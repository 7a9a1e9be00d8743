"""Reads the page of a batch on SQLite, and caches rows between batches.

The cache is valid until another connection commits, which changes `PRAGMA data_version` (SQLite manual, "PRAGMA
data_version"). So an installation of one process reads each row once.
"""

import sqlite3

from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS, ChargeRow
from tollkeeper.quota.rules.page import Account, Page, QuotaKey, QuotaRow, ReadSet, WindowHold, WindowRow
from tollkeeper.quota.rules.windows import span
from tollkeeper.quota.stores.rows import MAX_CLOCK_SKEW_MS, opening_entry, quota_row, window_row
from tollkeeper.quota.stores.sqlite.idempotency_keys import read_keys
from tollkeeper.quota.stores.sqlite.writes import write_entry
from tollkeeper.quota.time_sorted_ids import month_of

MAX_CACHED_ROWS = 50_000
"""Windows or accounts. A cache with more is cleared."""

_READ_CHARGE = f"SELECT {', '.join(CHARGE_COLUMNS)} FROM charges WHERE tenant_id = ? AND month = ? AND id = ?"
_READ_HOLDS = (
    "SELECT window_id, pending FROM entries INDEXED BY entries_of_source"
    " WHERE tenant_id = ? AND source_id = ? AND month = ?"
)
"""Without statistics, SQLite would rather read all entries of the tenant in the order of the primary key."""
_READ_WINDOW = (
    "SELECT id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence FROM windows WHERE id = ?"
)
_FIND_WINDOW = _READ_WINDOW.replace("id = ?", "tenant_id = ? AND quota_id = ? AND starts_ms = ?")
_READ_ACCOUNT = (
    "SELECT users.tenant_id, users.disabled_at IS NULL AND tenants.disabled_at IS NULL, users.token_version"
    " FROM users JOIN tenants ON tenants.id = users.tenant_id WHERE users.id = ?"
)
_READ_API_KEYS = "SELECT id, expires_ms FROM api_keys WHERE user_id = ? AND revoked_ms IS NULL"
_READ_REVOKED_SESSIONS = "SELECT id FROM sessions WHERE user_id = ? AND revoked_ms IS NOT NULL AND access_ends_ms > ?"
_READ_QUOTAS = (
    "SELECT id, tenant_id, user_id, unit, period, granted FROM quotas"
    " WHERE user_id = ? OR (tenant_id = ? AND user_id IS NULL) ORDER BY id"
)
_READ_QUOTA = "SELECT id, tenant_id, user_id, unit, period, granted FROM quotas WHERE id = ?"
_FIND_USER_QUOTA = (
    "SELECT id, tenant_id, user_id, unit, period, granted FROM quotas"
    " WHERE tenant_id = ? AND user_id = ? AND unit = ? AND period = ?"
)
_FIND_TENANT_QUOTA = (
    "SELECT id, tenant_id, user_id, unit, period, granted FROM quotas"
    " WHERE tenant_id = ? AND user_id IS NULL AND unit = ? AND period = ?"
)
_CREATE_QUOTA = "INSERT INTO quotas (tenant_id, user_id, unit, period, granted) VALUES (?, ?, ?, ?, 0)"
_CREATE_WINDOW = (
    "INSERT INTO windows (tenant_id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence)"
    " VALUES (?, ?, ?, ?, ?, 0, 0, 0, 1)"
)


class RowCache:
    """The rows as last read or written. Each window is one object, so all charges of a batch see the same balances."""

    def __init__(self) -> None:
        self._version: int | None = None
        self._accounts: dict[int, Account] = {}
        self._quotas: dict[int, QuotaRow] = {}
        self._windows: dict[int, WindowRow] = {}
        self._current: dict[int, WindowRow] = {}
        self._charges: dict[str, tuple[ChargeRow, list[WindowHold]]] = {}

    def clear(self) -> None:
        """Remove everything. After a batch that failed, the cached rows may have its changes."""
        self._version = None
        for rows in (self._accounts, self._quotas, self._windows, self._current, self._charges):
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
            quota = _find_quota(connection, key, create=key in read_set.quotas_to_create)
            if quota is not None:
                page.quotas[key] = quota
                self._read_current(connection, page, quota)
        for user_id in read_set.callers:
            account = self._accounts.get(user_id) or self._read_account(connection, user_id, now_ms)
            if account is not None:
                page.accounts[user_id] = account
                for quota in account.quotas:
                    self._read_current(connection, page, quota)
        if read_set.keys:
            page.keys = read_keys(connection, read_set.keys)
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
        return [WindowHold(self._read_window(connection, window_id), amount) for window_id, amount in pending.items()]

    def _read_account(self, connection: sqlite3.Connection, user_id: int, now_ms: int) -> Account | None:
        row = connection.execute(_READ_ACCOUNT, (user_id,)).fetchone()
        if row is None:
            return None
        tenant_id, active, token_version = row
        quotas = connection.execute(_READ_QUOTAS, (user_id, tenant_id)).fetchall()
        api_keys = dict(connection.execute(_READ_API_KEYS, (user_id,)).fetchall())
        revoked = connection.execute(_READ_REVOKED_SESSIONS, (user_id, now_ms - MAX_CLOCK_SKEW_MS)).fetchall()
        account = Account(
            tenant_id,
            bool(active),
            token_version,
            tuple(map(quota_row, quotas)),
            api_keys,
            frozenset(session_id for (session_id,) in revoked),
        )
        self._accounts[user_id] = account
        return account

    def _read_current(self, connection: sqlite3.Connection, page: Page, quota: QuotaRow) -> None:
        """Read the quota's current window, and create it if it does not exist."""
        if quota.id in page.current_windows:
            return
        starts_ms, ends_ms = span(quota.key.period, page.now_ms)
        window = self._current.get(quota.id)
        if window is None or window.starts_ms != starts_ms:
            row = connection.execute(_FIND_WINDOW, (quota.key.subject.tenant_id, quota.id, starts_ms)).fetchone()
            if row is None:
                window = _create_window(connection, page, quota, starts_ms, ends_ms)
            else:
                window = self._windows.get(row[0]) or window_row(row, quota)
            self._windows[window.id] = self._current[quota.id] = window
        page.current_windows[quota.id] = window

    def _read_window(self, connection: sqlite3.Connection, window_id: int) -> WindowRow:
        window = self._windows.get(window_id)
        if window is None:
            row = connection.execute(_READ_WINDOW, (window_id,)).fetchone()
            quota = self._quotas.get(row[1])
            if quota is None:
                quota = quota_row(connection.execute(_READ_QUOTA, (row[1],)).fetchone())
                self._quotas[quota.id] = quota
            window = self._windows[window_id] = window_row(row, quota)
        return window


def _create_window(
    connection: sqlite3.Connection, page: Page, quota: QuotaRow, starts_ms: int, ends_ms: int | None
) -> WindowRow:
    values = quota.key.subject.tenant_id, quota.id, starts_ms, ends_ms, quota.granted
    created = connection.execute(_CREATE_WINDOW, values)
    window = WindowRow(created.lastrowid or 0, quota, starts_ms, ends_ms, quota.granted, sequence=1)
    page.has_new_windows = True
    write_entry(connection, opening_entry(window, page.now_ms))
    return window


def _find_quota(connection: sqlite3.Connection, key: QuotaKey, *, create: bool) -> QuotaRow | None:
    tenant_id, user_id = key.subject.tenant_id, key.subject.user_id
    find, owner = (_FIND_TENANT_QUOTA, (tenant_id,)) if user_id is None else (_FIND_USER_QUOTA, (tenant_id, user_id))
    row = connection.execute(find, (*owner, str(key.unit), str(key.period))).fetchone()
    if row is None and create:
        connection.execute(_CREATE_QUOTA, (tenant_id, user_id, str(key.unit), str(key.period)))
        row = connection.execute(find, (*owner, str(key.unit), str(key.period))).fetchone()
    return quota_row(row) if row is not None else None
