"""Connections of one process that wait for the write lock of a SQLite file."""

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tollkeeper.database import sqlite_file
from tollkeeper.database.sqlite_file import PollingConnection


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        path, factory=PollingConnection, isolation_level="IMMEDIATE", timeout=0, check_same_thread=False
    )


def write(path: Path) -> None:
    with closing(connect(path)) as connection:
        connection.cursor().execute("INSERT INTO rows VALUES (1)")
        connection.commit()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "file.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE rows (number INTEGER)")
    return tmp_path / "file.db"


def test_one_connection_polls_and_the_others_wait_for_their_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    polling: list[int] = []
    enough, pause = threading.Event(), time.sleep

    def sleep(seconds: float) -> None:
        polling.append(threading.get_ident())
        if len(polling) >= 50:
            enough.set()
        pause(seconds)

    with closing(connect(path)) as holder:
        holder.cursor().execute("INSERT INTO rows VALUES (0)")
        monkeypatch.setattr("tollkeeper.database.sqlite_file.time.sleep", sleep)
        threads = [threading.Thread(target=write, args=(path,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert enough.wait(60)
        assert len(set(polling)) == 1
        holder.commit()
        for thread in threads:
            thread.join(60)
        assert holder.execute("SELECT count(*) FROM rows").fetchone() == (5,)


def test_a_lock_that_nothing_frees_refuses_each_that_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "MAX_LOCK_WAIT_S", 0.05)
    refused: list[int] = []

    def attempt() -> None:
        try:
            write(path)
        except sqlite3.OperationalError as error:
            refused.append(error.sqlite_errorcode)

    with closing(connect(path)) as holder:
        holder.cursor().execute("INSERT INTO rows VALUES (0)")
        threads = [threading.Thread(target=attempt) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        holder.rollback()
    assert refused == [sqlite3.SQLITE_BUSY] * 3
    write(path)  # the turn is free again
