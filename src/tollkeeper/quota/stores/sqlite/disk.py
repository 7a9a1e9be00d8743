"""The space that a SQLite database takes: new calls are refused before the disk is full, and the log is kept short."""

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import structlog

from tollkeeper.database.sqlite_file import MAX_SQLITE_LOG_BYTES

MIN_FREE_BYTES = 32 * 1024 * 1024
"""With less free space, no new call is admitted: what is left is for the calls in flight to be settled."""
MAX_LOG_BYTES = MAX_SQLITE_LOG_BYTES
"""A larger write-ahead log is truncated. A checkpoint alone lets SQLite write the log from its beginning again."""
CHECK_INTERVAL_S = 1.0

log = structlog.get_logger("tollkeeper.ledger")


class Disk:
    """Watches the disk of one database file. Used by one thread."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._log_path = path.with_name(f"{path.name}-wal")
        self._checked_at = 0.0
        self._log_checked_at = 0.0
        self.is_almost_full = False

    def check_space(self) -> None:
        """Look for the free space, at most every CHECK_INTERVAL_S, and log when it becomes too little or enough."""
        if time.monotonic() - self._checked_at < CHECK_INTERVAL_S:
            return
        self._checked_at = time.monotonic()
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return
        free = found.f_bavail * found.f_frsize
        if free < MIN_FREE_BYTES and not self.is_almost_full:
            log.error("ledger.unavailable", reason=f"disk almost full: {free // 2**20} MB free")
        elif free >= MIN_FREE_BYTES and self.is_almost_full:
            log.info("ledger.recovered")
        self.is_almost_full = free < MIN_FREE_BYTES

    def truncate_log(self, connection: sqlite3.Connection) -> None:
        """Truncate a log above MAX_LOG_BYTES, at most every CHECK_INTERVAL_S; later, if another connection uses it.

        Called outside a transaction. Does not wait: the connection has no busy handler.
        """
        if time.monotonic() - self._log_checked_at < CHECK_INTERVAL_S:
            return
        self._log_checked_at = time.monotonic()
        try:
            size = self._log_path.stat().st_size
        except OSError:
            return
        if size > MAX_LOG_BYTES:
            with suppress(sqlite3.OperationalError):  # the batch before it is committed in any case
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
