"""Makes the partitions of charges and entries before their month begins, beside the server. On SQLite it does nothing.

Without it the server works on: rows of a month without a partition go to the default one.
"""

import asyncio

import structlog
from sqlalchemy.exc import DBAPIError

from tollkeeper.database import ledger_partitions
from tollkeeper.database.engine import Database
from tollkeeper.database.errors import describe_error
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

INTERVAL_S = 300.0
RETRY_INTERVAL_S = 60.0
MAX_MOVED_ROWS = 10_000
"""Rows of a month that are moved out of the default partition while calls wait: for less than a second."""

log = structlog.get_logger("tollkeeper.ledger")


class PartitionMaker:
    """Looks every INTERVAL_S, and at the start. `on_run` is called after each run."""

    def __init__(self, database: Database, *, on_run: NoteRun = ignore_run) -> None:
        self._database = database
        self._on_run = on_run
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ledger-partitions")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def add_missing(self) -> None:
        """Make the partitions of this month and the next. Raises DatabaseUnavailable, DBAPIError."""
        async with self._database.session() as session:
            connection = await session.connection()
            if await connection.run_sync(ledger_partitions.are_used):
                await connection.run_sync(ledger_partitions.limit_lock_waits)
                await connection.run_sync(ledger_partitions.add_missing, most_moved=MAX_MOVED_ROWS)

    async def _run(self) -> None:
        while True:
            wait_s = RETRY_INTERVAL_S
            try:
                with noted(self._on_run, Task.LEDGER_PARTITIONS):
                    await self.add_missing()
                wait_s = INTERVAL_S
            except DatabaseUnavailable:
                log.warning("ledger.partitions_missing", reason="the database is unavailable")
            except DBAPIError as error:
                log.warning("ledger.partitions_missing", reason=describe_error(error))
            except Exception:
                log.exception("ledger.partitions_missing")
            await asyncio.sleep(wait_s)
