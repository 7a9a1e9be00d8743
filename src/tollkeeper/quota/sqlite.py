"""The ledger on SQLite: raw `sqlite3` in one thread, WAL, `synchronous=FULL`, one `BEGIN IMMEDIATE` per batch.

Waiting for another process's transaction is done by asking again every half millisecond: SQLite's own busy handler
backs off so far that a saturated writer starves everyone else.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tollkeeper.clock import Clock
from tollkeeper.quota.rows import Policy, changing_values, opening_entry, opening_values, quota_row, window_row
from tollkeeper.quota.store import (
    CHANGING_COLUMNS,
    CHARGE_COLUMNS,
    OPENING_COLUMNS,
    Account,
    ChargeRow,
    EntryRow,
    Hold,
    Needs,
    Page,
    QuotaKey,
    QuotaRow,
    StoreFailed,
    WindowRow,
)
from tollkeeper.quota.windows import span

POLL_S = 0.0005
BUSY_S = 2.0
"""How long a batch waits for other processes before it counts as an outage."""
FAIRNESS_PAUSE_S = 0.001
"""After a commit with more work waiting: lets other processes in, and lets the next batch grow."""

_READ_CHARGE = f"SELECT {', '.join(CHARGE_COLUMNS)} FROM charges WHERE id = ?"
_READ_HOLDS = "SELECT window_id, pending FROM entries WHERE source_id = ?"
_READ_WINDOW = (
    "SELECT id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence FROM windows WHERE id = ?"
)
_FIND_WINDOW = _READ_WINDOW.replace("id = ?", "quota_id = ? AND starts_ms = ?")
_READ_ACCOUNT = (
    "SELECT users.tenant_id, users.disabled_at IS NULL AND tenants.disabled_at IS NULL, users.token_version"
    " FROM users JOIN tenants ON tenants.id = users.tenant_id WHERE users.id = ?"
)
_READ_QUOTAS = (
    "SELECT id, tenant_id, user_id, unit, period, granted FROM quotas"
    " WHERE user_id = ? OR (tenant_id = ? AND user_id IS NULL) ORDER BY id"
)
_READ_QUOTA = "SELECT id, tenant_id, user_id, unit, period, granted FROM quotas WHERE id = ?"
_FIND_QUOTA = (
    "SELECT id, tenant_id, user_id, unit, period, granted FROM quotas"
    " WHERE tenant_id = ? AND user_id IS ? AND unit = ? AND period = ?"
)
_OPEN_QUOTA = "INSERT INTO quotas (tenant_id, user_id, unit, period, granted) VALUES (?, ?, ?, ?, 0)"
_OPEN_WINDOW = (
    "INSERT INTO windows (quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence)"
    " VALUES (?, ?, ?, ?, 0, 0, 0, 1)"
)
_OPEN_CHARGE = f"INSERT INTO charges ({', '.join(OPENING_COLUMNS)}) VALUES ({', '.join('?' * len(OPENING_COLUMNS))})"
_CHANGE_CHARGE = f"UPDATE charges SET {', '.join(f'{column} = ?' for column in CHANGING_COLUMNS)} WHERE id = ?"
_WRITE_WINDOW = "UPDATE windows SET granted = ?, settled = ?, pending = ?, forgiven = ?, sequence = ? WHERE id = ?"
_WRITE_ENTRY = f"INSERT INTO entries ({', '.join(EntryRow._fields)}) VALUES ({', '.join('?' * len(EntryRow._fields))})"
_LAPSED = "SELECT id FROM charges WHERE closed_ms IS NULL AND lease_ms < ? ORDER BY lease_ms LIMIT ?"


class SqliteStore:
    """The store of an embedded install. Several processes may share the file; each has its own thread and connection."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._policy = Policy()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._connection: sqlite3.Connection | None = None
        self._committed_at = 0.0

    async def run(self, needs: Needs, decide: Callable[[Page], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._run, needs, decide)

    async def lapsed(self, most: int) -> list[str]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._lapsed, most)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def _run(self, needs: Needs, decide: Callable[[Page], None]) -> None:
        committing = False
        try:
            connection = self._begin()
            page = self._read(connection, needs)
            decide(page)
            if page.dirty:
                _write(connection, page)
                committing = True
                connection.execute("COMMIT")
                self._committed_at = time.monotonic()
            else:
                connection.execute("ROLLBACK")
        except (sqlite3.OperationalError, sqlite3.NotSupportedError) as error:
            self._abandon()
            raise StoreFailed(str(error), maybe_committed=committing) from error
        except BaseException:
            self._abandon()
            raise

    def _lapsed(self, most: int) -> list[str]:
        try:
            rows = self._connect().execute(_LAPSED, (self._clock.now_ms(), most)).fetchall()
        except sqlite3.OperationalError as error:
            self._abandon()
            raise StoreFailed(str(error), maybe_committed=False) from error
        return [charge_id for (charge_id,) in rows]

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _abandon(self) -> None:
        """Nothing of a failed batch may be remembered; a new connection rolls back whatever is left of it."""
        self._policy.forget()
        self._disconnect()

    def _begin(self) -> sqlite3.Connection:
        """Take the write lock. Raises sqlite3.OperationalError when others keep it for longer than BUSY_S."""
        now = time.monotonic()
        if now - self._committed_at < FAIRNESS_PAUSE_S / 4:
            time.sleep(FAIRNESS_PAUSE_S)
        connection = self._connect()
        give_up_at = now + BUSY_S
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                    raise
                time.sleep(POLL_S)
            else:
                return connection

    def _read(self, connection: sqlite3.Connection, needs: Needs) -> Page:
        page = Page(self._clock.now_ms())
        (version,) = connection.execute("SELECT version FROM policy").fetchone()
        self._policy.at(version)
        windows = _Windows(connection, self._policy, page)
        for charge_id in needs.charges:
            row = connection.execute(_READ_CHARGE, (charge_id,)).fetchone()
            if row is not None:
                page.charges[charge_id] = ChargeRow(*row)
                page.holds[charge_id] = windows.held_by(charge_id)
        for key in needs.quotas | needs.create:
            quota = _find_quota(connection, key, create=key in needs.create)
            if quota is not None:
                page.quotas[key] = quota
                windows.current(quota)
        for user_id in needs.callers:
            account = self._policy.accounts.get(user_id) or self._read_account(connection, user_id)
            if account is not None:
                page.accounts[user_id] = account
                for quota in account.quotas:
                    windows.current(quota)
        for source_id in needs.sources:
            if connection.execute("SELECT 1 FROM entries WHERE source_id = ? LIMIT 1", (source_id,)).fetchone():
                page.done.add(source_id)
        return page

    def _read_account(self, connection: sqlite3.Connection, user_id: int) -> Account | None:
        row = connection.execute(_READ_ACCOUNT, (user_id,)).fetchone()
        if row is None:
            return None
        tenant_id, active, token_version = row
        quotas = connection.execute(_READ_QUOTAS, (user_id, tenant_id)).fetchall()
        account = Account(tenant_id, bool(active), token_version, tuple(quota_row(quota) for quota in quotas))
        self._policy.remember(user_id, account)
        return account


class _Windows:
    """The windows of one batch, each read once, those of the present moment created where there is none."""

    def __init__(self, connection: sqlite3.Connection, policy: Policy, page: Page) -> None:
        self._connection = connection
        self._policy = policy
        self._page = page
        self._rows: dict[int, WindowRow] = {}

    def current(self, quota: QuotaRow) -> None:
        if quota.id in self._page.current:
            return
        starts_ms, ends_ms = span(quota.key.period, self._page.now_ms)
        row = self._connection.execute(_FIND_WINDOW, (quota.id, starts_ms)).fetchone()
        if row is None:
            window = self._open(quota, starts_ms, ends_ms)
        else:
            window = self._rows.get(row[0]) or window_row(row, quota)
        self._rows[window.id] = self._page.current[quota.id] = window

    def held_by(self, charge_id: str) -> list[Hold]:
        pending: dict[int, int] = {}
        for window_id, amount in self._connection.execute(_READ_HOLDS, (charge_id,)):
            pending[window_id] = pending.get(window_id, 0) + amount
        return [Hold(self._by_id(window_id), amount) for window_id, amount in pending.items()]

    def _by_id(self, window_id: int) -> WindowRow:
        if (known := self._rows.get(window_id)) is not None:
            return known
        row = self._connection.execute(_READ_WINDOW, (window_id,)).fetchone()
        quota = self._policy.quotas.get(row[1])
        if quota is None:
            quota = quota_row(self._connection.execute(_READ_QUOTA, (row[1],)).fetchone())
            self._policy.quotas[quota.id] = quota
        self._rows[window_id] = window_row(row, quota)
        return self._rows[window_id]

    def _open(self, quota: QuotaRow, starts_ms: int, ends_ms: int | None) -> WindowRow:
        opened = self._connection.execute(_OPEN_WINDOW, (quota.id, starts_ms, ends_ms, quota.granted))
        window = WindowRow(opened.lastrowid or 0, quota, starts_ms, ends_ms, quota.granted, sequence=1)
        self._page.opened_windows = True
        self._connection.execute(_WRITE_ENTRY, opening_entry(window, self._page.now_ms))
        return window


def _find_quota(connection: sqlite3.Connection, key: QuotaKey, *, create: bool) -> QuotaRow | None:
    named = (key.subject.tenant_id, key.subject.user_id, key.unit.value, key.period.value)
    row = connection.execute(_FIND_QUOTA, named).fetchone()
    if row is None and create:
        connection.execute(_OPEN_QUOTA, named)
        row = connection.execute(_FIND_QUOTA, named).fetchone()
    return quota_row(row) if row is not None else None


def _write(connection: sqlite3.Connection, page: Page) -> None:
    if page.opened:
        connection.executemany(_OPEN_CHARGE, map(opening_values, page.opened))
    if page.changed:
        connection.executemany(_CHANGE_CHARGE, ((*changing_values(row), row.id) for row in page.changed.values()))
    for quota in page.limits.values():
        connection.execute("UPDATE quotas SET granted = ? WHERE id = ?", (quota.granted, quota.id))
    connection.executemany(
        _WRITE_WINDOW,
        [(row.granted, row.settled, row.pending, row.forgiven, row.sequence, row.id) for row in page.touched.values()],
    )
    connection.executemany(_WRITE_ENTRY, page.entries)
