"""A backup of a SQLite database is one snapshot, private, complete or absent, and keeps nobody from writing."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tollkeeper.database.sqlite_backup import PAGES_PER_STEP, back_up
from tollkeeper.errors import ConfigurationError

BLOB_BYTES = 4_000
"""A row fills a page."""
ROWS = 3 * PAGES_PER_STEP


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a database of several steps, with rows that are in its log only."""
    with closing(sqlite3.connect(tmp_path / "source.db", timeout=0, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, content BLOB)")
        insert(connection, ROWS)
        yield connection


def insert(connection: sqlite3.Connection, count: int) -> None:
    connection.executemany("INSERT INTO rows (content) VALUES (?)", ((b"x" * BLOB_BYTES,) for _ in range(count)))


def rows_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM rows").fetchone()
    return int(count)


def test_what_is_committed_during_a_backup_is_neither_delayed_nor_part_of_it(
    writer: sqlite3.Connection, tmp_path: Path
) -> None:
    """The writer waits for no lock: with a timeout of 0, it would fail."""
    seen = []

    def write(done: int, total: int) -> None:
        insert(writer, 1)
        seen.append((done, total))

    size = back_up(tmp_path / "source.db", tmp_path / "copy.db", write)
    assert len(seen) >= ROWS // PAGES_PER_STEP
    assert seen[-1] == (size, size)
    assert rows_in(tmp_path / "copy.db") == ROWS
    assert rows_in(tmp_path / "source.db") == ROWS + len(seen)


def test_a_backup_is_one_file_for_its_owner_only(writer: sqlite3.Connection, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    back_up(tmp_path / "source.db", folder / "copy.db")
    assert [each.name for each in folder.iterdir()] == ["copy.db"]
    assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600


def test_a_backup_replaces_no_file(writer: sqlite3.Connection, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(ConfigurationError, match="replaces no file"):
        back_up(tmp_path / "source.db", tmp_path / "copy.db")
    with pytest.raises(ConfigurationError, match="replaces no file"):
        back_up(tmp_path / "source.db", tmp_path / "new.db", lambda *_: (tmp_path / "new.db").touch())
    assert (tmp_path / "copy.db").read_text() == "precious"
    assert (tmp_path / "new.db").read_text() == ""


def test_an_interrupted_backup_leaves_no_file(writer: sqlite3.Connection, tmp_path: Path) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(tmp_path / "source.db", tmp_path / "copy.db", interrupt)
    assert not list(tmp_path.glob("*copy.db*"))
    assert not list(tmp_path.glob(".*copy.db*"))


def test_a_damaged_database_makes_no_backup(writer: sqlite3.Connection, tmp_path: Path) -> None:
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "source.db").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096)
    with pytest.raises(ConfigurationError, match="failed"):
        back_up(tmp_path / "source.db", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_folder_that_is_absent_is_named(writer: sqlite3.Connection, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent/copy\.db cannot be written: No such file"):
        back_up(tmp_path / "source.db", tmp_path / "absent" / "copy.db")
