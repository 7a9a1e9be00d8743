"""A database that cannot be written to is found before a call needs it: at the start, and by the readiness check."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from support.databases import make_read_only
from tollkeeper.database import engine, sqlite_file
from tollkeeper.database.engine import Database
from tollkeeper.errors import ConfigurationError


async def problem_of(url: str) -> str | None:
    database = Database(url)
    try:
        await database.require_writable()
    except ConfigurationError as error:
        return error.detail
    finally:
        await database.close()
    return None


async def test_a_database_that_can_be_written_to_is_not_changed_by_the_check(database_url: str) -> None:
    assert await problem_of(database_url) is None
    if database_url.startswith("sqlite:///"):
        with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as connection:
            before = connection.execute("PRAGMA data_version").fetchone()
            assert await problem_of(database_url) is None
            assert connection.execute("PRAGMA data_version").fetchone() == before


async def test_a_read_only_sqlite_database_is_not_ready(sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    make_read_only(path)
    detail = f"The database {path} cannot be written to: attempt to write a readonly database."
    assert await problem_of(sqlite_url) == detail
    database = Database(sqlite_url)
    assert not await database.is_ready()
    await database.close()


async def test_a_sqlite_file_without_permission_to_write_is_not_ready(sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    path.chmod(0o400)
    if os.access(path, os.W_OK):
        pytest.skip("this user may write to every file, whatever its mode")
    assert "attempt to write a readonly database" in (await problem_of(sqlite_url) or "")


async def test_a_locked_sqlite_database_is_not_ready(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "MAX_LOCK_WAIT_S", 0.05)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert "cannot be written to: database is locked" in (await problem_of(sqlite_url) or "")
        connection.execute("ROLLBACK")
    assert await problem_of(sqlite_url) is None


async def test_a_read_only_postgresql_database_is_not_ready(postgres_url: str) -> None:
    database = Database(postgres_url)
    async with database.session() as session:
        connection = await session.connection()
        name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
        await connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    await database.close()
    assert await problem_of(postgres_url) == "The database cannot be written to: it is read-only."
    database = Database(postgres_url)
    assert not await database.is_ready()
    await database.close()


async def test_the_readiness_check_asks_the_database_once_a_second(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def count(_: Database) -> None:
        asked.append(time.monotonic())

    monkeypatch.setattr(engine, "READINESS_LIFETIME_S", 1000.0)
    monkeypatch.setattr(Database, "require_writable", count)
    database = Database(database_url)
    assert [await database.is_ready() for _ in range(20)] == [True] * 20
    assert len(asked) == 1
    await database.close()
