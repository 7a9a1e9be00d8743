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
from tollkeeper.errors import ConfigurationError
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.stores.base import StoreFailed
from tollkeeper.quota.stores.sqlite.keys import forget_keys
from tollkeeper.quota.stores.sqlite.row_cache import RowCache
from tollkeeper.quota.stores.sqlite.writing import write

OLDEST = (3, 32)
CHECKPOINT_PAGES = 4_000
"""16 MB of log between two checkpoints: the pages that every batch touches are copied once for many of them."""
POLL_S = 0.0005
BUSY_S = 2.0
"""How long a batch waits for other processes before it counts as an outage."""

_LAPSED = "SELECT id FROM charges WHERE closed_ms IS NULL AND lease_ms < ? ORDER BY lease_ms LIMIT ?"


class SqliteStore:
    """The store of an embedded install. Processes may share the file; each has a thread and a connection of its own."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Raises ConfigurationError when SQLite is older than what the statements need."""
        if sqlite3.sqlite_version_info < OLDEST:
            raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: at least 3.32 is needed.")
        self._path = path
        self._clock = clock
        self._memory = RowCache()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._connection: sqlite3.Connection | None = None

    async def run(self, needs: ReadSet, decide: Callable[[Page], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._run, needs, decide)

    async def lapsed(self, most: int) -> list[str]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._lapsed, most)

    async def forget_keys(self, most: int) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._forget_keys, most)

    async def probe(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._probe)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def _run(self, needs: ReadSet, decide: Callable[[Page], None]) -> None:
        committing = False
        try:
            connection = self._begin()
            page = self._memory.read(connection, needs, self._clock.now_ms())
            decide(page)
            if page.dirty:
                write(connection, page)
                committing = True
                connection.execute("COMMIT")
            else:
                connection.execute("ROLLBACK")
            self._memory.keep(page)
        except (sqlite3.OperationalError, sqlite3.NotSupportedError) as error:
            self._abandon()
            raise StoreFailed(str(error), maybe_committed=committing) from error
        except BaseException:
            self._abandon()
            raise

    def _probe(self) -> None:
        try:
            connection = self._begin()
            connection.execute("UPDATE policy SET version = version")
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._abandon()
            raise StoreFailed(str(error), maybe_committed=False) from error

    def _lapsed(self, most: int) -> list[str]:
        try:
            rows = self._connect().execute(_LAPSED, (self._clock.now_ms(), most)).fetchall()
        except sqlite3.OperationalError as error:
            self._abandon()
            raise StoreFailed(str(error), maybe_committed=False) from error
        return [charge_id for (charge_id,) in rows]

    def _forget_keys(self, most: int) -> int:
        try:
            connection = self._begin()
            forgotten = forget_keys(connection, self._clock.now_ms(), most)
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._abandon()
            raise StoreFailed(str(error), maybe_committed=False) from error
        return forgotten

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("PRAGMA temp_store=MEMORY")
            self._connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _abandon(self) -> None:
        """Nothing of a failed batch may be remembered; a new connection rolls back whatever is left of it."""
        self._memory.forget()
        self._disconnect()

    def _begin(self) -> sqlite3.Connection:
        """Take the write lock. Raises sqlite3.OperationalError when others keep it for longer than BUSY_S."""
        connection = self._connect()
        give_up_at = time.monotonic() + BUSY_S
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                    raise
                time.sleep(POLL_S)
            else:
                return connection
