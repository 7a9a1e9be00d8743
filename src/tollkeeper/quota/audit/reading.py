"""Reads the rows that are verified: one statement, which is one snapshot, at a time."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, TextClause

from tollkeeper.database.engine import Database
from tollkeeper.quota.audit.facts import Values

BEFORE_ALL_TENANTS = -(2**31)


async def read(database: Database, statement: TextClause, **values: Any) -> Sequence[Row[Any]]:
    """Raises DatabaseUnavailable."""
    async with database.session() as session:
        connection = await session.connection()
        return (await connection.execute(statement, values)).all()


async def read_values(database: Database, statement: TextClause, **values: Any) -> list[Values]:
    """The rows as the driver returns them, without names: SQLAlchemy's rows take twice the time.

    Raises DatabaseUnavailable.
    """
    async with database.session() as session:
        connection = await session.connection()
        cursor = (await connection.execute(statement, values)).cursor
        assert cursor is not None
        return list(map(tuple, cursor.fetchall()))
