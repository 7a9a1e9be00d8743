"""Removes the rows of archived months: on PostgreSQL their partitions, on SQLite the rows in small transactions."""

import asyncio
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tollkeeper.clock import Clock
from tollkeeper.database import ledger_partitions
from tollkeeper.database.engine import Database
from tollkeeper.database.errors import describe_error
from tollkeeper.errors import ConfigurationError, DatabaseUnavailable
from tollkeeper.quota.archive.export import Progress
from tollkeeper.quota.archive.registry import Months, Registry
from tollkeeper.quota.audit.cut import REMOVING
from tollkeeper.quota.audit.reading import read
from tollkeeper.quota.partition_months import month_before

BATCH_ROWS = 500
"""Rows that one transaction deletes on SQLite: calls wait for a few milliseconds."""
PAUSE_S = 0.01
LOCK_TRIES = 60
LOCK_PAUSE_S = 1.0
_KEYS = {
    "entries": ("tenant_id", "window_id", "sequence", "month"),
    "charges": ("tenant_id", "month", "id"),
}


async def lock_out(database: Database, months: Months) -> None:
    """Wait for the operations on charges of these months that began before the archive did. Later ones are refused.

    On SQLite there are none: an operation has the write lock from its first read on. Raises ConfigurationError if a
    lock is not had in about a minute, DatabaseUnavailable.
    """
    await _retry(database, months, ["LOCK TABLE {} IN EXCLUSIVE MODE"], ("charges",))


async def remove(database: Database, registry: Registry, months: Months, clock: Clock, progress: Progress) -> None:
    """Remove all rows of these months; some may be gone already. Raises what `lock_out` does."""
    statements = ["ALTER TABLE {parent} DETACH PARTITION {}", "DROP TABLE {}"]
    if await _is_partitioned(database):
        for table in _KEYS:
            await _retry(database, months, statements, (table,))
        return
    for table, key in _KEYS.items():
        await _delete(database, registry, months, clock, progress, table, key)


async def _is_partitioned(database: Database) -> bool:
    async with database.session() as session:
        return await (await session.connection()).run_sync(ledger_partitions.are_used)


async def _retry(database: Database, months: Months, statements: list[str], parents: tuple[str, ...]) -> None:
    """Run statements on the partitions of these months, in one transaction. It waits for a lock as little as a batch
    does, since calls wait behind it, and tries again.
    """
    problem = ""
    for _ in range(LOCK_TRIES):
        try:
            async with database.session() as session:
                connection = await session.connection()
                if not await connection.run_sync(ledger_partitions.are_used):
                    return
                await connection.run_sync(ledger_partitions.limit_lock_waits)
                for parent in parents:
                    for partition in await connection.run_sync(ledger_partitions.find, parent):
                        if partition.month_after is not None and month_before(partition.month_after) <= months.month:
                            for statement in statements:
                                await connection.exec_driver_sql(statement.format(partition.name, parent=parent))
                return
        except DatabaseUnavailable as error:
            problem = describe_error(error.__cause__ or error)
        except DBAPIError as error:
            problem = describe_error(error)
        await asyncio.sleep(LOCK_PAUSE_S)
    raise ConfigurationError(f"The partitions of {months.label} are in use: {problem}. Run the same command again.")


async def _delete(
    database: Database,
    registry: Registry,
    months: Months,
    clock: Clock,
    progress: Progress,
    table: str,
    key: tuple[str, ...],
) -> None:
    columns, values = ", ".join(key), ", ".join(f":{name}" for name in key)
    find = text(
        f"SELECT {columns} FROM {table} WHERE month BETWEEN :first_month AND :last_month"
        f" AND ({columns}) > ({values}) ORDER BY {columns} LIMIT {BATCH_ROWS}"
    )
    delete = text(f"DELETE FROM {table} WHERE {' AND '.join(f'{name} = :{name}' for name in key)}")
    place: dict[str, Any] = dict.fromkeys(key, -(2**31)) | ({"id": ""} if "id" in key else {})
    done = 0
    bounds = {"first_month": months.first_month, "last_month": months.month}
    while rows := await read(database, find, **(bounds | {name: place[name] for name in key})):
        keys = [dict(zip(key, row, strict=True)) for row in map(tuple, rows)]
        async with database.session() as session:
            await registry.renew(session, months, REMOVING, clock.now_ms())
            await (await session.connection()).execute(delete, keys)
        place = keys[-1]
        done += len(keys)
        progress(f"{table} deleted", done)
        await asyncio.sleep(PAUSE_S)
