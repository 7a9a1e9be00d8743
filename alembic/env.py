"""Alembic's environment: runs the migrations on SQLite or PostgreSQL, at the URL that `tollkeeper migrate` passes.

All migrations of a run are one transaction, on SQLite, too: a run that fails leaves the database as it was.
"""

import asyncio

from alembic import context
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import SQLModel

import tollkeeper.contents.models
import tollkeeper.conversations.models
import tollkeeper.identity.models
import tollkeeper.moderation.counts
import tollkeeper.quota.rules.models
import tollkeeper.scores.counts  # noqa: F401 - the imports fill the metadata that autogenerate compares
from tollkeeper.database import ledger_partitions, row_security, vector_index_schema
from tollkeeper.database.engine import async_url
from tollkeeper.settings import load_settings

SQLITE_LOCK_WAIT_S = 30
"""How long the migrations wait for the write lock of a server that runs."""
NO_LIMIT = 2**62


def run_migrations(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True, transactional_ddl=True
    )
    with context.begin_transaction():
        context.config.attributes["revision_before"] = context.get_context().get_current_revision()
        context.run_migrations()
        if connection.dialect.name == "postgresql":
            context.config.attributes["row_security"] = row_security.set_up(connection)
            if ledger_partitions.are_used(connection):
                ledger_partitions.add_missing(connection, most_moved=NO_LIMIT)
            if context.config.attributes.get("vector_index"):
                context.config.attributes["vector_index_problem"] = vector_index_schema.set_up(connection)


def make_engine(url: str) -> AsyncEngine:
    if not url.startswith("sqlite"):
        from tollkeeper.database.postgres_connection import orm_statements  # loads asyncpg, which SQLite does not need

        # A pooler in transaction mode may stand between, and no statement of a migration runs twice.
        statements = orm_statements(prepared=False)
        return create_async_engine(
            async_url("postgresql://"), hide_parameters=True, connect_args={"dsn": url, **statements}
        )
    # Without an isolation level, the driver begins no transaction itself: it would begin one for data only.
    own_begin = {"isolation_level": None, "timeout": SQLITE_LOCK_WAIT_S}
    engine = create_async_engine(async_url(url), hide_parameters=True, connect_args=own_begin)

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


async def main() -> None:
    engine = make_engine(context.config.attributes.get("database_url") or load_settings().database_url)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run_migrations)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(main())
