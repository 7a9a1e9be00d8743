"""What is shown and logged of a database's error: no value of a row, and no parameter of a statement."""

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tollkeeper.database.engine import Database
from tollkeeper.database.errors import describe_error
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.telemetry.redaction import format_exception

SECRET = "ada@secret.example"
INSERT = "INSERT INTO tenants (name, created_at) VALUES (:name, CURRENT_TIMESTAMP)"


async def fail(database: Database, statement: str, **parameters: object) -> DBAPIError:
    """Execute a statement twice. Returns the error."""

    async def execute() -> None:
        async with database.session() as session:
            connection = await session.connection()
            for _ in range(2):
                await connection.execute(text(statement), parameters)

    with pytest.raises(DBAPIError) as failed:
        await execute()
    return failed.value


async def test_a_conflict_shows_neither_parameters_nor_the_row(database: Database) -> None:
    error = await fail(database, INSERT, name=SECRET)
    assert "unique" in describe_error(error).lower()
    logged = format_exception(error)
    assert "INSERT INTO tenants" in logged
    assert "Traceback" in logged
    for shown in (str(error), describe_error(error), logged):
        assert SECRET not in shown
        assert "DETAIL" not in shown


async def test_a_value_of_the_wrong_type_is_not_quoted(postgres_url: str) -> None:
    database = Database(postgres_url)
    for statement in ("SELECT CAST(:value AS integer)", "SELECT CAST(CAST(:value AS text) AS integer)"):
        error = await fail(database, statement, value=SECRET)
        assert "DataError" in describe_error(error) or "InvalidTextRepresentation" in describe_error(error)
        assert SECRET not in describe_error(error) + format_exception(error)
    await database.close()


@pytest.mark.parametrize("code", ["57P03", "53300", "08006"])
async def test_an_error_of_the_server_itself_is_an_outage(postgres_url: str, code: str) -> None:
    """A server that is starting up refuses connections with 57P03."""
    database = Database(postgres_url)
    statement = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = 'no known word'; END $$"
    with pytest.raises(DatabaseUnavailable):
        async with database.session() as session:
            await (await session.connection()).execute(text(statement))
    await database.close()


async def test_the_errors_of_the_ledgers_driver_are_described_in_one_line(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    row = "INSERT INTO tenants (name, created_at) VALUES ($1, now())"
    await connection.execute(row, SECRET)
    for statement, value, expected in (
        (row, SECRET, "duplicate key value violates unique constraint"),
        ("SELECT $1::integer", SECRET, "DataError"),
        ("SELECT $1::text::integer", SECRET, "InvalidTextRepresentationError"),
        ("SELECT nothing WHERE $1 = ''", SECRET, 'column "nothing" does not exist'),
    ):
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)) as failed:
            await connection.execute(statement, value)
        assert describe_error(failed.value).startswith(expected)
        assert SECRET not in describe_error(failed.value) + format_exception(failed.value)
        assert "\n" not in describe_error(failed.value)
    await connection.close()


def test_an_error_without_a_message_is_described_by_its_class() -> None:
    assert describe_error(TimeoutError()) == "TimeoutError"
    assert describe_error(OSError("first\nsecond")) == "first"
