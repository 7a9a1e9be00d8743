"""Alembic's environment: runs the migrations on SQLite or PostgreSQL, at the URL that `tollkeeper migrate` passes."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

import tollkeeper.conversations.models
import tollkeeper.identity.models
import tollkeeper.quota.rules.models  # noqa: F401 - the imports fill the metadata that autogenerate compares
from tollkeeper.db import async_url
from tollkeeper.settings import load_settings


def run_migrations(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    url = context.config.attributes.get("database_url") or load_settings().database_url
    engine = create_async_engine(async_url(url), hide_parameters=True)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run_migrations)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(main())
