"""The mark of a verification: a file from which the next one continues.

It has the balances up to which each window was replayed. A verification works on a copy, which replaces the file only
if nothing was wrong. If it is interrupted, the copy stays, and the next verification continues with it.
"""

import fcntl
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Self

from tollkeeper.errors import ConfigurationError
from tollkeeper.private_files import FILE_MODE, secure_sqlite_files
from tollkeeper.quota.audit.facts import NEW_WINDOW, Key, WindowState
from tollkeeper.quota.audit.problems import Fault, Problem
from tollkeeper.quota.audit.report import AuditReport

_TABLES = """
CREATE TABLE progress (ledger TEXT, since TEXT, stage TEXT, position TEXT, newest TEXT, report TEXT);
CREATE TABLE windows (tenant_id INTEGER, window_id INTEGER, sequence INTEGER, granted INTEGER, settled INTEGER,
    pending INTEGER, forgiven INTEGER, mode INTEGER DEFAULT 0, PRIMARY KEY (tenant_id, window_id)) WITHOUT ROWID;
CREATE TABLE charges (tenant_id INTEGER, id TEXT, PRIMARY KEY (tenant_id, id)) WITHOUT ROWID;
"""
_COLUMNS = "SELECT count(*) FROM pragma_table_info('windows')"
WINDOWS, CHARGES = "windows", "charges"
_NO_MARK = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB)
"""The errors of SQLite for a file without these tables, and for one that is no database."""


class _Progress(NamedTuple):
    """The row of the file."""

    ledger: str
    since: str
    stage: str
    position: str
    newest: str
    report: str


class Mark:
    """The file of one verification. Used by one thread.

    If a verification has finished with this file before, only the windows that have changed are read, from where they
    were replayed to, and the charges of their new entries. The first one leaves the charges that are made meanwhile to
    the second, with those of their entries that it has replayed.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, progress: _Progress, lock: int) -> None:
        self._path = path
        self._connection = connection
        self._progress = progress
        self._lock = lock

    @classmethod
    def open(cls, path: Path, ledger: str, newest: str) -> Self:
        """Open or create the file. `ledger` identifies the ledger, "" if it is empty; `newest` is the id of now.

        Raises ConfigurationError if the file cannot be used, or is that of another ledger.
        """
        work = _work_path(path)
        try:
            lock = _lock(work)
        except BlockingIOError:
            raise ConfigurationError(f"{path} is in use by another verification. Wait for its end.") from None
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be used: {error.strerror}.") from None
        is_resumed = os.fstat(lock).st_size > 0
        try:
            if not is_resumed and path.exists():
                shutil.copyfile(path, work)
            secure_sqlite_files(work)
            connection = sqlite3.connect(work, isolation_level=None)
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                connection.executescript(_TABLES)
                found = _Progress(ledger, since="", stage=WINDOWS, position="", newest=newest, report="")
                connection.execute("INSERT INTO progress VALUES (?, ?, ?, ?, ?, ?)", found)
            else:
                if connection.execute(_COLUMNS).fetchone() == (7,):  # it was made by an older version
                    connection.execute("ALTER TABLE windows ADD COLUMN mode INTEGER DEFAULT 0")
                found = _Progress._make(connection.execute("SELECT * FROM progress").fetchone())
                if not is_resumed:
                    found = found._replace(since=found.newest, stage=WINDOWS, position="", newest=newest, report="")
        except (OSError, sqlite3.Error, TypeError) as error:
            is_a_mark = isinstance(error, sqlite3.Error) and error.sqlite_errorcode not in _NO_MARK
            if not (is_a_mark and is_resumed):
                work.unlink(missing_ok=True)
            os.close(lock)
            if is_a_mark and isinstance(error, sqlite3.Error):
                raise _not_written(work, error) from None
            reason = error.strerror if isinstance(error, OSError) else "it is not the mark of a verification"
            raise ConfigurationError(f"{path} cannot be used: {reason}.") from None
        if ledger and found.ledger and found.ledger != ledger:
            connection.close()
            work.unlink()
            os.close(lock)
            raise ConfigurationError(f"{path} is the mark of another ledger. Give each ledger a file of its own.")
        return cls(path, connection, found._replace(ledger=found.ledger or ledger), lock)

    @property
    def since(self) -> str:
        """The id of the moment when the verification before this one began; "" if there was none."""
        return self._progress.since

    @property
    def stage(self) -> str:
        """WINDOWS or CHARGES: what is being checked."""
        return self._progress.stage

    @property
    def position(self) -> tuple[Any, ...]:
        """How far it is in its stage, as last saved; empty at the begin."""
        return tuple(json.loads(self._progress.position)) if self._progress.position else ()

    @property
    def newest(self) -> str:
        """The id of the moment when the verification began."""
        return self._progress.newest

    def restart(self) -> None:
        """Begin again, because months were archived since the interruption. What was verified before this one stays."""
        self._progress = self._progress._replace(stage=WINDOWS, position="", report="")

    def report(self) -> AuditReport:
        """What was found before an interruption."""
        if not self._progress.report:
            return AuditReport(since=self.since)
        values = json.loads(self._progress.report)
        problems = [Problem(Fault(fault), where, what) for fault, where, what in values.pop("problems")]
        return AuditReport(problems=problems, **values)

    def save(
        self,
        stage: str,
        position: Iterable[int | str],
        report: AuditReport,
        windows: Mapping[Key, WindowState] | None = None,
        charges: Iterable[tuple[int, str]] = (),
    ) -> None:
        """Save how far it is, the windows that were replayed since the last time, and the charges of new entries.

        Raises ConfigurationError if the file cannot be written.
        """
        problems = [(problem.fault, problem.where, problem.what) for problem in report.problems]
        self._progress = self._progress._replace(
            stage=stage, position=json.dumps(list(position)), report=json.dumps(asdict(report) | {"problems": problems})
        )
        statement = "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany(statement, ((*key, *state) for key, state in (windows or {}).items()))
            self._connection.executemany("INSERT OR IGNORE INTO charges VALUES (?, ?)", charges)
            self._write_progress()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _not_written(_work_path(self._path), error) from None

    def window(self, key: Key) -> WindowState:
        """How far a window was replayed."""
        statement = "SELECT * FROM windows WHERE tenant_id = ? AND window_id = ?"
        row = self._connection.execute(statement, key).fetchone()
        return WindowState._make(row[2:]) if row is not None else NEW_WINDOW

    def windows(self, first: Key, last: Key) -> dict[Key, WindowState]:
        """How far the windows from `first` to `last` were replayed, where they were."""
        statement = "SELECT * FROM windows WHERE (tenant_id, window_id) BETWEEN (?, ?) AND (?, ?)"
        rows = self._connection.execute(statement, (*first, *last))
        return {(row[0], row[1]): WindowState._make(row[2:]) for row in rows}

    def charges_after(self, position: tuple[int, str], most: int) -> list[tuple[int, str]]:
        """The next charges with new entries, of one tenant."""
        statement = (
            "SELECT tenant_id, id FROM charges WHERE (tenant_id, id) > (?, ?)"
            " AND tenant_id = (SELECT min(tenant_id) FROM charges WHERE (tenant_id, id) > (?, ?))"
            " ORDER BY tenant_id, id LIMIT ?"
        )
        return self._connection.execute(statement, (*position, *position, most)).fetchall()

    def finish(self, report: AuditReport) -> None:
        """Keep the mark if nothing was wrong. Else leave the file as it was, so that the next time finds it again.

        Raises ConfigurationError if the file cannot be written.
        """
        work = _work_path(self._path)
        try:
            if self.since:
                self._connection.execute("DELETE FROM charges")  # all are checked
            self._write_progress()
            self._connection.close()
            if report.clean:
                work.replace(self._path)
            else:
                work.unlink()
        except (OSError, sqlite3.Error) as error:
            raise _not_written(work, error) from None

    def close(self) -> None:
        """Keep what was saved: the next verification continues with it."""
        with suppress(sqlite3.Error):
            self._connection.close()
        os.close(self._lock)

    def _write_progress(self) -> None:
        statement = "UPDATE progress SET ledger = ?, since = ?, stage = ?, position = ?, newest = ?, report = ?"
        self._connection.execute(statement, self._progress)


def _lock(work: Path) -> int:
    """Create the file if it does not exist, and lock it for this process. Returns the descriptor, which has the lock.

    The lock is not one of SQLite's. Raises BlockingIOError if another process has it, OSError.
    """
    descriptor = os.open(work, os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), work.stat()):
            raise BlockingIOError  # the other process has just finished, and renamed the file
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _not_written(work: Path, error: OSError | sqlite3.Error) -> ConfigurationError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return ConfigurationError(
        f"{work} cannot be written: {reason}. What was saved before is kept: the same command continues with it."
    )


def _work_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")
