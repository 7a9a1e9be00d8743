"""The databases of the tests: what one test leaves in a PostgreSQL database, the next does not find."""

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from support.postgres_servers import SharedPostgres, execute
from support.reused_postgres import SEQUENCES, ReusedDatabases

ROWS = """
INSERT INTO tenants (name, created_at) VALUES ('left', now());
UPDATE policy SET version = 7;
DELETE FROM key_tag_secrets;
UPDATE configuration SET version = 3;
"""
CHANGES = {
    "column": "ALTER TABLE tenants ADD COLUMN left_over integer",
    "table": "CREATE TABLE left_over (id integer)",
    "dropped table": "DROP TABLE key_tag_secrets",
    "index": "CREATE INDEX left_over ON tenants (name)",
    "dropped index": "DROP INDEX IF EXISTS ix_left_over; ALTER TABLE jobs DROP CONSTRAINT jobs_pkey CASCADE",
    "trigger": "ALTER TABLE entries DISABLE TRIGGER ALL",
    "row security": "ALTER TABLE users NO FORCE ROW LEVEL SECURITY; ALTER TABLE users DISABLE ROW LEVEL SECURITY",
    "grant": "GRANT SELECT ON tenants TO PUBLIC",
    "default": "ALTER TABLE tenants ALTER COLUMN name SET DEFAULT 'left'",
    "function": "CREATE FUNCTION left_over() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "schema": "CREATE SCHEMA left_over",
    "statistics": "ANALYZE alembic_version",
}


@pytest.fixture
def databases(shared_postgres_server: SharedPostgres) -> Iterator[ReusedDatabases]:
    made = ReusedDatabases(shared_postgres_server, drops=True)
    yield made
    made.close()


def content(url: str) -> dict[str, Any]:
    """All rows of all tables, and the sequences."""

    async def read() -> dict[str, Any]:
        connection = await asyncpg.connect(url)
        try:
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            found = {name: await connection.fetch(f'SELECT * FROM "{name}"') for (name,) in tables}
            return found | {"sequences": await connection.fetch(SEQUENCES)}
        finally:
            await connection.close()

    return asyncio.run(read())


def test_a_database_is_used_again_without_the_rows_of_the_former_test(databases: ReusedDatabases) -> None:
    url = databases.take()
    before = content(url)
    asyncio.run(execute(url, ROWS))
    assert content(url) != before
    databases.give_back(url)
    assert databases.take() == url
    assert content(url) == before
    databases.give_back(url)


def test_a_process_of_the_former_test_is_disconnected(databases: ReusedDatabases) -> None:
    url = databases.take()

    async def leave_connected() -> None:
        left = await asyncpg.connect(url)
        await left.execute("BEGIN; LOCK TABLE tenants")
        databases.give_back(url)
        assert await asyncio.to_thread(databases.take) == url
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await left.execute("SELECT 1")

    asyncio.run(leave_connected())
    databases.give_back(url)


@pytest.mark.parametrize("change", CHANGES)
def test_a_database_whose_schema_a_test_has_changed_is_not_used_again(databases: ReusedDatabases, change: str) -> None:
    url = databases.take()
    asyncio.run(execute(url, CHANGES[change]))
    databases.give_back(url)
    another = databases.take()
    assert another != url
    databases.give_back(another)


def test_a_database_with_a_setting_of_its_own_is_not_used_again(databases: ReusedDatabases) -> None:
    url = databases.take()
    name = url.partition("?")[0].rpartition("/")[2]
    asyncio.run(execute(url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    databases.give_back(url)
    another = databases.take()
    assert another != url
    databases.give_back(another)
