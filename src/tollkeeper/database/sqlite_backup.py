"""A copy of a SQLite database while servers write to it: one snapshot, in a new file that only its owner can read."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from tollkeeper.database.errors import describe_error
from tollkeeper.errors import ConfigurationError
from tollkeeper.private_files import create_private_file, synchronize

PAGES_PER_STEP = 512
"""Pages copied between two reports of progress: 2 MiB."""

Progress = Callable[[int, int], None]
"""Receives the bytes that are copied, and those of the whole database."""


def back_up(source: Path, target: Path, progress: Progress = lambda *_: None) -> int:
    """Copy a database to a file that does not exist yet, and check the copy. Returns its size in bytes.

    The copy is what was committed when it began. One read transaction spans it, which in WAL mode blocks no
    writer; without it, SQLite would begin anew after each write of another connection. The write-ahead log cannot be
    shortened meanwhile. The file appears under its name when it is complete and on the disk.

    Raises ConfigurationError.
    """
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    if target.exists():
        raise _exists(target)
    try:
        create_private_file(unfinished, "")
        try:
            _copy(source, unfinished, progress)
            _check(unfinished)
            synchronize(unfinished)
            _name(unfinished, target)
            synchronize(target.parent)
        finally:
            for suffix in ("", "-wal", "-shm", "-journal"):
                with suppress(OSError):
                    unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"The backup {target} cannot be written: {error.strerror or error}.") from None
    except sqlite3.Error as error:
        raise ConfigurationError(f"The backup of {source} failed: {describe_error(error)}.") from None
    return target.stat().st_size


def _copy(source: Path, target: Path, progress: Progress) -> None:
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=rw", uri=True, isolation_level=None)) as reader,
        closing(sqlite3.connect(target, isolation_level=None)) as writer,
    ):
        (page_size,) = reader.execute("PRAGMA page_size").fetchone()
        writer.execute("PRAGMA synchronous=OFF")  # the whole file is synchronized in the end
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the snapshot begins with the first read

        def show(_status: int, remaining: int, total: int) -> None:
            progress((total - remaining) * page_size, total * page_size)

        reader.backup(writer, pages=PAGES_PER_STEP, progress=show)
        reader.execute("ROLLBACK")


def _check(copy: Path) -> None:
    """Raises sqlite3.DatabaseError for a copy that is damaged, as its source then is."""
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError("the database is damaged; run: sqlite3 FILE 'PRAGMA integrity_check'")


def _name(unfinished: Path, target: Path) -> None:
    """Give a complete file its name. Raises ConfigurationError if another file has got that name meanwhile."""
    try:
        os.link(unfinished, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without hard links
        if target.exists():
            raise _exists(target) from None
        unfinished.rename(target)


def _exists(target: Path) -> ConfigurationError:
    return ConfigurationError(f"{target} exists. A backup replaces no file: choose another name.")
