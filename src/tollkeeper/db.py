"""Sessions of the ORM: one engine, one session scope, one place that commits. The ledger has connections of its own."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.errors import ConfigurationError, DatabaseUnavailable

SCHEMA_REVISION = "0006"
"""The newest migration in `alembic/versions`; a test compares the two."""

SQLITE_BUSY_TIMEOUT_MS = 5_000
POSTGRES_TIMEOUT_S = 5
"""For each of: opening a connection, waiting for one of the pool, and running a statement."""


class _PostgresConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose transactions run without JIT: compiling one of these statements takes longer than running it.

    The setting is sent with BEGIN, in one round trip, and is local to the transaction: a connection pooler in
    transaction mode (pgbouncer) loses the settings of a session.
    """

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        if query.startswith("BEGIN"):
            query += " SET LOCAL jit = off"
        return str(await super().execute(query, *args, timeout=timeout))


class SqliteFile:
    """Notices that a database file was replaced or deleted while connections to it are open.

    SQLite would continue with a file that no path leads to, and lose what it writes. An open connection keeps the inode
    from being used again, so device and inode identify the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None

    def problem(self) -> str | None:
        """Returns what happened to the file since this was first called; None: nothing."""
        try:
            found = self._path.stat()
        except OSError as error:
            return f"The database file {self._path} is gone: {error.strerror}." if self._identity else None
        identity = found.st_dev, found.st_ino
        self._identity = self._identity or identity
        if identity != self._identity:
            return f"The database file {self._path} was replaced while the server ran."
        return None


def async_url(database_url: str) -> str:
    """Returns the URL with the driver that SQLAlchemy's asyncio engine needs."""
    for scheme in ("postgresql://", "postgres://"):
        if database_url.startswith(scheme):
            return "postgresql+asyncpg://" + database_url.removeprefix(scheme)
    return database_url.replace("sqlite://", "sqlite+aiosqlite://", 1)


class Database:
    """Opens sessions for everything but the ledger: accounts, API keys, conversations, reports."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._engine = _make_engine(database_url)
        self._file: SqliteFile | None = None
        if database_url.startswith("sqlite:///"):
            self._file = SqliteFile(Path(database_url.removeprefix("sqlite:///")))

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """One transaction: commits when the block completes, rolls back when it raises.

        Raises DatabaseUnavailable when the database does not respond, is locked, or cannot be written to.
        """
        if self._file is not None and self._file.problem() is not None:
            raise DatabaseUnavailable
        try:
            async with AsyncSession(self._engine, expire_on_commit=False) as session:
                yield session
                await session.commit()
        except (OSError, TimeoutError, PoolTimeout) as error:
            raise DatabaseUnavailable from error
        except DBAPIError as error:
            if _is_outage(error):
                raise DatabaseUnavailable from error
            raise

    async def revision(self) -> str | None:
        """Returns the revision of the schema, or None when there is no schema."""
        async with self._engine.connect() as connection:
            if not await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version")):
                return None
            return (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()

    async def require_current_schema(self) -> None:
        """Raise ConfigurationError unless the schema is at SCHEMA_REVISION."""
        try:
            self._check_file()
            found = await self.revision()
        except (OSError, DBAPIError, PoolTimeout, sqlite3.Error) as error:
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
        """Raise sqlite3.Error for a file that cannot be opened; aiosqlite would leave a thread behind."""
        if self._url.startswith("sqlite:///"):
            with closing(sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=0)) as connection:
                connection.execute("SELECT 1")

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


def _make_engine(database_url: str) -> AsyncEngine:
    if not database_url.startswith("sqlite"):
        return create_async_engine(
            async_url(database_url),
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=5,
            pool_timeout=POSTGRES_TIMEOUT_S,
            connect_args={
                "timeout": POSTGRES_TIMEOUT_S,
                "command_timeout": POSTGRES_TIMEOUT_S,
                "connection_class": _PostgresConnection,
            },
        )
    engine = create_async_engine(async_url(database_url))

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: Any, _record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_TIMEOUT_MS}")
        cursor.close()

    return engine


def _is_outage(error: DBAPIError) -> bool:
    """Whether the database is at fault, not the statement. SQLite's and asyncpg's outages differ only in their text."""
    if error.connection_invalidated:
        return True
    reason = str(error.orig).lower()
    outage_words = ("locked", "unable to open", "disk", "readonly", "connect", "too many clients", "shutting down")
    return any(word in reason for word in outage_words)


def _reason(error: Exception) -> str:
    """Returns the driver's message: its first line, without the error's class and without a URL."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(cause).splitlines()[0].rsplit(": ", 1)[-1] if str(cause) else type(cause).__name__
