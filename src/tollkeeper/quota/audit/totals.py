"""About how many rows a verification of the whole ledger reads, so that it can show how far it is."""

from typing import NamedTuple

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tollkeeper.database.engine import Database
from tollkeeper.quota.audit.cut import Cut


class Totals(NamedTuple):
    """Entries and charges that are not archived."""

    entries: int
    charges: int


async def estimate_totals(database: Database, cut: Cut) -> Totals:
    """SQLite counts, from an index. PostgreSQL gives the estimate of its planner, because counting takes as long as
    reading. Raises DatabaseUnavailable.
    """
    async with database.session() as session:
        connection = await session.connection()
        estimate = _count if connection.dialect.name == "sqlite" else _plan_rows
        return Totals(*[await estimate(connection, table, cut.month) for table in Totals._fields])


async def _count(connection: AsyncConnection, table: str, cut: int) -> int:
    where = f"WHERE month > {cut:d}" if cut else ""
    found = await connection.execute(text(f"SELECT count(*) FROM {table} {where}"))
    return int(found.scalar_one())


async def _plan_rows(connection: AsyncConnection, table: str, cut: int) -> int:
    plan = await connection.execute(text(f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {table} WHERE month > {cut:d}"))
    document = plan.scalar_one()
    return int((orjson.loads(document) if isinstance(document, str) else document)[0]["Plan"]["Plan Rows"])
