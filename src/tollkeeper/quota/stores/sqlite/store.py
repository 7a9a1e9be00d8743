"""The ledger on SQLite: raw `sqlite3` in one thread, WAL, `synchronous=FULL`, one `BEGIN IMMEDIATE` per batch.

A batch polls for the write lock every half millisecond while another process has it. SQLite's own busy handler waits so
long between its tries that a process that writes all the time starves the others.
"""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from tollkeeper.clock import Clock
from tollkeeper.database.sqlite_file import SqliteFile
from tollkeeper.errors import ConfigurationError
from tollkeeper.quota.rules.idempotency_keys import KEY_LIFETIME_MS
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.stores.base import StoreFailed, StoreLost
from tollkeeper.quota.stores.sqlite.database_thread import DatabaseThread
from tollkeeper.quota.stores.sqlite.disk import MAX_LOG_BYTES, Disk
from tollkeeper.quota.stores.sqlite.free_charges import delete_free_charges
from tollkeeper.quota.stores.sqlite.idempotency_keys import delete_old_keys, register_functions
from tollkeeper.quota.stores.sqlite.row_cache import RowCache
from tollkeeper.quota.stores.sqlite.waiting_jobs import find_waiting_jobs
from tollkeeper.quota.stores.sqlite.writes import write

MIN_SQLITE_VERSION = (3, 32)
CHECKPOINT_PAGES = 4_000
"""The size of the log at a checkpoint: 16 MB. Pages that every batch changes are then copied once for many batches."""
LOCK_POLL_S = 0.0005
MAX_LOCK_WAIT_S = 2.0
"""How long a batch waits for the write lock before that counts as an outage."""

_FIND_LAPSED = "SELECT id, tenant_id FROM charges WHERE closed_ms IS NULL AND lease_ms < ? ORDER BY lease_ms LIMIT ?"


class SqliteStore:
    """The store of an installation on one host. Processes share the file; each has one thread and one connection."""

    def __init__(self, path: Path, clock: Clock, *, key_lifetime_ms: int = KEY_LIFETIME_MS) -> None:
        """Raises ConfigurationError if this SQLite is too old for the statements."""
        if sqlite3.sqlite_version_info < MIN_SQLITE_VERSION:
            raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: at least 3.32 is needed.")
        self._path = path
        self._clock = clock
        self._key_lifetime_ms = key_lifetime_ms
        self._cache = RowCache()
        self._file = SqliteFile(path)
        self._disk = Disk(path)
        self.lost_reason: str | None = None
        self._thread = DatabaseThread("ledger")
        self._connection: sqlite3.Connection | None = None

    @property
    def refuses_calls(self) -> bool:
        return self._disk.is_almost_full

    async def run(self, read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        await self._thread.run(self._run, read_set, decide)

    async def find_lapsed(self, limit: int) -> list[tuple[str, int]]:
        return await self._thread.run(self._find_lapsed, limit)

    async def delete_old_keys(self, limit: int) -> int:
        return await self._thread.run(
            self._delete,
            lambda connection: delete_old_keys(connection, self._clock.now_ms() - self._key_lifetime_ms, limit),
        )

    async def delete_free_charges(self, min_age_ms: int, limit: int) -> int:
        return await self._thread.run(
            self._delete,
            lambda connection: delete_free_charges(connection, self._clock.now_ms() - min_age_ms, limit),
        )

    async def probe(self) -> None:
        await self._thread.run(self._probe)

    async def close(self) -> None:
        await self._thread.run(self._disconnect)
        self._thread.close()

    def _run(self, read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        committing = False
        try:
            connection = self._begin()
            page = self._cache.read(connection, read_set, self._clock.now_ms())
            page.key_lifetime_ms = self._key_lifetime_ms
            page.refuses_calls = self._disk.is_almost_full
            if read_set.waiting_jobs:
                page.waiting_jobs = find_waiting_jobs(connection, read_set.waiting_jobs)
            decide(page)
            if page.has_changes:
                write(connection, page)
                committing = True
                connection.execute("COMMIT")
            else:
                connection.execute("ROLLBACK")
            self._cache.committed(page)
            self._disk.truncate_log(connection)
        except (sqlite3.OperationalError, sqlite3.NotSupportedError) as error:
            self._reset()
            raise StoreFailed(str(error), maybe_committed=committing) from error
        except StoreLost:
            raise
        except BaseException:
            self._reset()
            raise

    def _probe(self) -> None:
        try:
            connection = self._begin()
            # Another value each time: SQLite writes no page whose content stays the same, so a full disk would pass.
            connection.execute("UPDATE policy SET version = 1 - version WHERE tenant_id = 0")
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._reset()
            raise StoreFailed(str(error), maybe_committed=False) from error

    def _find_lapsed(self, limit: int) -> list[tuple[str, int]]:
        try:
            self._check_file()
            self._disk.check_space()
            return self._connect().execute(_FIND_LAPSED, (self._clock.now_ms(), limit)).fetchall()
        except sqlite3.OperationalError as error:
            self._reset()
            raise StoreFailed(str(error), maybe_committed=False) from error

    def _delete(self, delete: Callable[[sqlite3.Connection], int]) -> int:
        """Run a deletion in a transaction of its own. Returns how many rows it deleted. Raises StoreFailed."""
        try:
            connection = self._begin()
            deleted = delete(connection)
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._reset()
            raise StoreFailed(str(error), maybe_committed=False) from error
        return deleted

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            location = f"file:{quote(str(self._path))}?mode=rw"  # a file that is gone is not created again
            self._connection = sqlite3.connect(location, uri=True, timeout=0, isolation_level=None)
            register_functions(self._connection)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("PRAGMA temp_store=MEMORY")
            self._connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            self._connection.execute(f"PRAGMA journal_size_limit={MAX_LOG_BYTES}")
        return self._connection

    def _check_file(self) -> None:
        """Raise StoreLost while the path leads to another file than the connection, or to none.

        The connection stays open, so that no other file can have its inode.
        """
        self.lost_reason = self._file.problem()
        if self.lost_reason is not None:
            self._cache.clear()
            raise StoreLost(self.lost_reason, maybe_committed=False)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _reset(self) -> None:
        """After a failed batch: clear the cache, and close the connection, which rolls the batch back."""
        self._cache.clear()
        self._disconnect()

    def _begin(self) -> sqlite3.Connection:
        """Take the write lock.

        Raises sqlite3.OperationalError if another process holds it for MAX_LOCK_WAIT_S, StoreLost.
        """
        self._check_file()
        self._disk.check_space()
        connection = self._connect()
        deadline = time.monotonic() + MAX_LOCK_WAIT_S
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_POLL_S)
            else:
                return connection
