"""Reads the rows that are verified: one statement, which is one snapshot, at a time."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, TextClause

from tollkeeper.database.engine import Database

BEFORE_ALL_TENANTS = -(2**31)


async def read(database: Database, statement: TextClause, **values: Any) -> Sequence[Row[Any]]:
    """Raises DatabaseUnavailable."""
    async with database.session() as session:
        connection = await session.connection()
        return (await connection.execute(statement, values)).all()
