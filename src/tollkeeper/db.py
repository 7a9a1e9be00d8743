"""The database for administration: one engine, one session scope, one place that commits. The ledger has its own."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg
from sqlalchemy import event, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.errors import ConfigurationError, LedgerUnavailable

SCHEMA_REVISION = "0004"
"""The newest migration in `alembic/versions`; a test holds the two together."""

SQLITE_BUSY_MS = 5_000


class _PostgresConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose transactions run without JIT: compiling a statement takes longer than any of ours runs.

    The setting travels with BEGIN, in one round trip, and is local to the transaction: a connection pool in transaction
    mode loses the settings of a session.
    """

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        if query.startswith("BEGIN"):
            query += " SET LOCAL jit = off"
        return str(await super().execute(query, *args, timeout=timeout))


def async_url(database_url: str) -> str:
    """The URL as SQLAlchemy's asyncio engine wants it."""
    for scheme in ("postgresql://", "postgres://"):
        if database_url.startswith(scheme):
            return "postgresql+asyncpg://" + database_url.removeprefix(scheme)
    return database_url.replace("sqlite://", "sqlite+aiosqlite://", 1)


class Database:
    """Sessions for reading and for administration."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._engine = _make_engine(database_url)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends well, rolled back when it raises.

        Raises LedgerUnavailable when the database cannot be reached.
        """
        try:
            async with AsyncSession(self._engine, expire_on_commit=False) as session:
                yield session
                await session.commit()
        except (OSError, TimeoutError, NoConnectionFree) as error:
            raise LedgerUnavailable from error
        except DBAPIError as error:
            if _is_outage(error):
                raise LedgerUnavailable from error
            raise

    async def revision(self) -> str | None:
        """The schema's revision, or None when there is no schema."""
        async with self._engine.connect() as connection:
            if not await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version")):
                return None
            return (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()

    async def require_current_schema(self) -> None:
        """Raise ConfigurationError unless the schema is the one this code was written for."""
        try:
            self._check_file()
            found = await self.revision()
        except (OSError, DBAPIError, NoConnectionFree, sqlite3.Error) as error:
            raise ConfigurationError(f"The database cannot be opened: {_reason(error)}.") from None
        if found == SCHEMA_REVISION:
            return
        if found is None:
            raise ConfigurationError("The database has no schema yet. Create it with: tollkeeper migrate")
        raise ConfigurationError(
            f"The database schema is at {found}, this version needs {SCHEMA_REVISION}."
            " Bring it up with: tollkeeper migrate"
        )

    def _check_file(self) -> None:
        """Raise sqlite3.Error for a file that cannot be opened, here and now: aiosqlite leaves a thread behind."""
        if self._url.startswith("sqlite:///"):
            with closing(sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=0)) as connection:
                connection.execute("SELECT 1")

    async def close(self) -> None:
        await self._engine.dispose()


def _make_engine(database_url: str) -> AsyncEngine:
    if not database_url.startswith("sqlite"):
        return create_async_engine(
            async_url(database_url),
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=5,
            pool_timeout=5,
            connect_args={"timeout": 5, "command_timeout": 5, "connection_class": _PostgresConnection},
        )
    engine = create_async_engine(async_url(database_url))

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: Any, _record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_MS}")
        cursor.close()

    return engine


def _is_outage(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    reason = str(error.orig).lower()
    outages = ("locked", "unable to open", "disk", "readonly", "connect", "too many clients", "shutting down")
    return any(word in reason for word in outages)


def _reason(error: Exception) -> str:
    """What the driver says, on one line, without its class or a URL."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).splitlines()[0].rsplit(": ", 1)[-1] if str(cause) else type(cause).__name__
