"""The `INSERT … ON CONFLICT` of both databases."""

from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncConnection

if TYPE_CHECKING:
    from sqlalchemy.dialects.sqlite import Insert


def insert_into(connection: AsyncConnection, table: Any) -> "Insert":
    """An `INSERT` into this table, which can say what happens on a conflict: PostgreSQL has the same methods."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # 2 MB, which SQLite does not need

        return postgresql.insert(table)  # type: ignore[return-value]
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)
