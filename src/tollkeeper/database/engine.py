"""Sessions of the ORM: one engine, one session scope, one place that commits. The ledger has connections of its own."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from sqlalchemy import event, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.database import row_security
from tollkeeper.database.completion import to_completion
from tollkeeper.database.errors import describe_error, is_outage
from tollkeeper.database.schema_revision import SCHEMA_REVISION as SCHEMA_REVISION
from tollkeeper.database.sqlite_file import MAX_SQLITE_LOG_BYTES, PollingConnection, SqliteFile
from tollkeeper.errors import ConfigurationError, DatabaseUnavailable
from tollkeeper.tenant_scope import TenantScope

POSTGRES_TIMEOUT_S = 5
"""For each of: opening a connection, waiting for one of the pool, and running a statement."""
READINESS_LIFETIME_S = 1.0
"""How long `Database.readiness_problem` returns the same answer."""
_POSTGRES_WRITE_PROBLEM = """
SELECT CASE
    WHEN pg_is_in_recovery() THEN 'it is a standby'
    WHEN current_setting('transaction_read_only') = 'on' THEN 'it is read-only'
    WHEN NOT has_table_privilege('charges', 'INSERT') THEN 'the user ' || current_user || ' has no right to'
END
"""


class SchemaMissing(ConfigurationError):
    """The database has no tables yet."""


def async_url(database_url: str) -> str:
    """Returns the URL with the driver that SQLAlchemy's asyncio engine needs."""
    for scheme in ("postgresql://", "postgres://"):
        if database_url.startswith(scheme):
            return "postgresql+asyncpg://" + database_url.removeprefix(scheme)
    return database_url.replace("sqlite://", "sqlite+aiosqlite://", 1)


class Database:
    """Opens sessions for everything but the ledger: accounts, API keys, conversations, reports."""

    def __init__(self, database_url: str, *, prepared_statements: bool = True) -> None:
        """`prepared_statements`: whether PostgreSQL prepares each statement once per connection. False behind a pooler
        in transaction mode.
        """
        self._url = database_url
        self._engine = _make_engine(database_url, prepared_statements=prepared_statements)
        self._readiness_lock = asyncio.Lock()
        self._readiness: tuple[str | None, float] | None = None
        self._role_of_requests: str | None = None
        self._file: SqliteFile | None = None
        if database_url.startswith("sqlite:///"):
            self._file = SqliteFile(Path(database_url.removeprefix("sqlite:///")).absolute())

    @asynccontextmanager
    async def session(self, scope: TenantScope | None = None) -> AsyncIterator[AsyncSession]:
        """One transaction: commits when the block completes, rolls back when it raises. With a scope, the database
        itself shows no rows of other tenants, as far as it can: see `enable_row_security`.

        Raises DatabaseUnavailable when the database does not respond, is locked, or cannot be written to.
        """
        if self._file is not None and self._file.problem() is not None:
            raise DatabaseUnavailable
        try:
            info = row_security.session_info(self._role_of_requests)
            async with _AsyncSession(self._engine, expire_on_commit=False, info=info) as session:
                if scope is not None:
                    confine(session, scope)
                yield session
                await to_completion(session.commit())  # a commit that is cancelled loses its connection
        except (OSError, TimeoutError, PoolTimeout) as error:
            raise DatabaseUnavailable from error
        except DBAPIError as error:
            if is_outage(error):
                raise DatabaseUnavailable from error
            raise

    async def revision(self) -> str | None:
        """Returns the revision of the schema, or None when there is no schema."""
        async with self._engine.connect() as connection:
            if not await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version")):
                return None
            return (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()

    async def _oldest_revision(self) -> str | None:
        """Returns the revision of the oldest code that can serve on this schema, or None if the schema does not say."""
        async with self._engine.connect() as connection:
            if not await connection.run_sync(lambda sync: inspect(sync).has_table("schema_compatibility")):
                return None
            statement = text("SELECT oldest_revision FROM schema_compatibility")
            return (await connection.execute(statement)).scalar_one_or_none()

    async def _hides_rows(self) -> bool:
        """Whether the policies of row-level security apply to the database's user."""
        if self._file is not None:
            return False
        async with self._engine.connect() as connection:
            return await connection.run_sync(row_security.hides_rows)

    async def readiness_problem(self) -> str | None:
        """Why no call can be admitted: the database cannot be written to, or its schema is not at SCHEMA_REVISION, or
        newer and compatible. None if the database is ready.

        The database is queried at most once per READINESS_LIFETIME_S, however many callers there are: health checks
        need no credential, and must not take the connections that calls need.
        """
        async with self._readiness_lock:
            if self._readiness is None or time.monotonic() - self._readiness[1] >= READINESS_LIFETIME_S:
                problem = None
                try:
                    await self.require_current_schema()
                    await self.require_writable()
                except ConfigurationError as error:
                    problem = error.detail
                self._readiness = problem, time.monotonic()
            return self._readiness[0]

    async def is_ready(self) -> bool:
        """Whether there is no `readiness_problem`."""
        return await self.readiness_problem() is None

    async def require_current_schema(self) -> None:
        """Raise ConfigurationError unless the schema is at SCHEMA_REVISION, or is newer and says that it is compatible;
        or if it hides rows from the database's user, so that the ledger would miss charges; SchemaMissing if there is
        none.

        So old servers go on, and can be restarted, while an upgrade replaces them one by one.
        """
        try:
            self._check_file()
            found = await self.revision()
            oldest = await self._oldest_revision() if found is not None and found > SCHEMA_REVISION else None
            hides_rows = await self._hides_rows() if found is not None else False
        except (OSError, DBAPIError, PoolTimeout, sqlite3.Error) as error:
            detail = f"{self._name} cannot be opened: {reason_of(error)}. Check TOLLKEEPER_DATABASE_URL."
            raise ConfigurationError(detail) from None
        if hides_rows:
            raise ConfigurationError(
                f"{self._name} hides rows from its user by row-level security, so that the ledger would miss charges."
                " Connect as the owner of the tables, or as a member of that role."
            )
        if found == SCHEMA_REVISION:
            return
        if found is None:
            raise SchemaMissing(f"{self._name} has no schema yet. Create it with: tollkeeper migrate")
        if found > SCHEMA_REVISION:
            if oldest is not None and oldest <= SCHEMA_REVISION:
                return
            raise ConfigurationError(
                f"The database schema is at {found}, which this version ({SCHEMA_REVISION}) cannot serve on."
                " Install the version that has migrated it, or a newer one."
            )
        raise ConfigurationError(
            f"The database schema is at {found}, this version needs {SCHEMA_REVISION}."
            " Bring it up with: tollkeeper migrate"
        )

    async def require_writable(self) -> None:
        """Raise ConfigurationError if the database, its disk or its user permits no writing. Nothing is written.

        SQLite permits a change, which is rolled back: it gives the write lock for a file that is read-only, too.
        PostgreSQL says whether it is a standby or read-only.
        """
        try:
            async with self._engine.connect() as connection:
                if self._file is not None:
                    await connection.execute(text("BEGIN IMMEDIATE"))
                    await connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
                    await connection.rollback()
                    return
                problem = (await connection.execute(text(_POSTGRES_WRITE_PROBLEM))).scalar_one()
        except (OSError, DBAPIError, PoolTimeout, sqlite3.Error) as error:
            problem = reason_of(error)
        if problem is not None:
            raise ConfigurationError(f"{self._name} cannot be written to: {problem}.")

    async def enable_row_security(self) -> str | None:
        """From now on, sessions with a scope run as the role of requests, which sees no rows of other tenants. On
        SQLite, this does nothing.

        Returns why there is no such role on PostgreSQL; None if there is. Raises ConfigurationError.
        """
        if self._file is not None:
            return None
        try:
            async with self._engine.connect() as connection:
                found = await connection.run_sync(row_security.find)
        except (OSError, DBAPIError, PoolTimeout) as error:
            raise ConfigurationError(f"{self._name} cannot be opened: {reason_of(error)}.") from None
        if found is None:
            return "The schema has no policies."
        self._role_of_requests = found.role if found.problem is None else None
        return found.problem

    async def is_pooled(self) -> bool:
        """Whether a connection pooler stands between: it says that the server's process is another one than it is.

        Raises ConfigurationError for a database that cannot be read, also because of the pooler.
        """
        if self._file is not None:
            return False
        try:
            async with self._engine.connect() as connection:
                announced = (await connection.get_raw_connection()).driver_connection
                serving = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
                return bool(announced.get_server_pid() != serving)  # type: ignore[union-attr]
        except (OSError, DBAPIError, PoolTimeout) as error:
            raise ConfigurationError(f"{self._name} cannot be read: {reason_of(error)}.") from None

    @property
    def _name(self) -> str:
        return f"The database {self._file.path}" if self._file is not None else "The database"

    def _check_file(self) -> None:
        """Raise sqlite3.Error for a file that cannot be opened; aiosqlite would leave a thread behind."""
        if self._url.startswith("sqlite:///"):
            with closing(sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=0)) as connection:
                connection.execute("SELECT 1")

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


class _AsyncSession(AsyncSession):
    sync_session_class = row_security.RequestSession


def confine(session: AsyncSession, scope: TenantScope) -> None:
    """Run a session's transactions on the rows of this scope: see `Database.session`. None may have begun."""
    row_security.confine(session.sync_session, scope.tenant_id)


def _make_engine(database_url: str, *, prepared_statements: bool) -> AsyncEngine:
    if not database_url.startswith("sqlite"):
        from tollkeeper.database.postgres_connection import (  # loads asyncpg, which SQLite does not need
            PostgresConnection,
            orm_statements,
        )

        engine = create_async_engine(
            async_url("postgresql://"),
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=5,
            pool_timeout=POSTGRES_TIMEOUT_S,
            connect_args={
                "dsn": database_url,  # its driver knows sslmode and the like, SQLAlchemy does not
                "timeout": POSTGRES_TIMEOUT_S,
                "command_timeout": POSTGRES_TIMEOUT_S,
                "connection_class": PostgresConnection,
                **orm_statements(prepared=prepared_statements),
            },
        )
        event.listen(engine.sync_engine, "begin", row_security.forget_settings)
        return engine
    polling = {"factory": PollingConnection, "isolation_level": "IMMEDIATE", "timeout": 0}
    engine = create_async_engine(async_url(database_url), hide_parameters=True, connect_args=polling)

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: Any, _record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA journal_size_limit={MAX_SQLITE_LOG_BYTES}")
        cursor.close()

    return engine


def reason_of(error: Exception) -> str:
    """Returns the driver's message in one line, without a URL, and what to do behind a connection pooler."""
    reason = describe_error(error).rsplit(": ", 1)[-1]
    if "prepared statement" in reason:
        reason += "; behind a connection pooler in transaction mode, set TOLLKEEPER_PREPARED_STATEMENTS=False"
    return reason
