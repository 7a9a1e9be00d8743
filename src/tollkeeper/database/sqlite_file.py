"""A SQLite database file: its schema revision, connections that poll for its lock, and whether it was replaced."""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

MAX_SQLITE_LOG_BYTES = 64 * 1024 * 1024
MAX_LOCK_WAIT_S = 5.0
LOCK_POLL_S = 0.0005


def read_schema_revision(path: Path) -> str | None:
    """Returns the revision of the schema in a file with an absolute path; None if it has none, or cannot be read."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=0)) as connection:
            (revision,) = connection.execute("SELECT max(version_num) FROM alembic_version").fetchone()
    except sqlite3.Error:
        return None
    return str(revision) if revision is not None else None


def has_rows(path: Path, table: str) -> bool:
    """Whether a table of a file with an absolute path has a row. False if there is no such table, or no file."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=MAX_LOCK_WAIT_S)) as connection:
            return connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return False


_turns: defaultdict[str, Lock] = defaultdict(Lock)
"""By the path of a file: which of this process's connections polls for the file's lock."""


class PollingConnection(sqlite3.Connection):
    """A SQLite connection whose transactions begin with the write lock, for which it polls as the ledger does.

    A transaction begins with the first statement that writes; reads need no lock. SQLite's busy handler waits so long
    between its tries that it gets no lock beside processes that write all the time.

    `close` ends the transaction also where a caller was cancelled in the middle of a statement. SQLite itself would
    keep the lock until the cursor of that statement is deleted (https://www.sqlite.org/c3ref/close.html).
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.turn = _turns[str(args[0])]
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, factory: Any = None) -> Any:
        cursor = super().cursor(factory or _PollingCursor)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        with suppress(sqlite3.Error):
            for cursor in list(self._cursors):
                cursor.close()
            if self.in_transaction:
                self.rollback()
        super().close()


class _PollingCursor(sqlite3.Cursor):
    connection: PollingConnection

    def execute(self, sql: str, parameters: Any = ()) -> "_PollingCursor":
        self._poll(super().execute, sql, parameters)
        return self

    def executemany(self, sql: str, parameters: Any) -> "_PollingCursor":
        self._poll(super().executemany, sql, list(parameters))
        return self

    def _poll(self, execute: Callable[[str, Any], object], sql: str, parameters: Any) -> None:
        """Run a statement. If another connection has the lock that it needs, wait for it, unless a transaction is open.

        Of the connections of this process to a file, one polls and the others wait for their turn: many that poll would
        take the processor from the one that has the lock.
        """
        deadline = time.monotonic() + MAX_LOCK_WAIT_S
        if self._try(execute, sql, parameters, deadline):
            return
        turn = self.connection.turn
        has_turn = turn.acquire(timeout=max(0.0, deadline - time.monotonic()))
        try:
            while not self._try(execute, sql, parameters, deadline):
                time.sleep(LOCK_POLL_S)
        finally:
            if has_turn:
                turn.release()

    def _try(self, execute: Callable[[str, Any], object], sql: str, parameters: Any, deadline: float) -> bool:
        """Whether the statement ran. Raises sqlite3.OperationalError for a lock that is not free at the deadline."""
        try:
            execute(sql, parameters)
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or self.connection.in_transaction or time.monotonic() > deadline:
                raise
            return False
        return True


class SqliteFile:
    """Notices that a database file was replaced or deleted while connections to it are open.

    SQLite would continue with a file that no path leads to, and lose what it writes. An open connection keeps the inode
    from being used again, so device and inode identify the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None

    def problem(self) -> str | None:
        """Returns what happened to the file since this was first called; None: nothing."""
        try:
            found = self.path.stat()
        except OSError as error:
            return f"The database file {self.path} is gone: {error.strerror}." if self._identity else None
        identity = found.st_dev, found.st_ino
        self._identity = self._identity or identity
        if identity != self._identity:
            return f"The database file {self.path} was replaced while the server ran."
        return None
