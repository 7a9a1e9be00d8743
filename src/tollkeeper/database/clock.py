"""The clock of this machine against the database's: leases and tokens rely on hosts that agree on the time."""

import asyncio
import time
from contextlib import suppress

import structlog
from sqlalchemy import text

from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable

MAX_SKEW_S = 2.0
"""A lease lasts a minute, and an access token a quarter of an hour: hosts must agree by far more than that."""
INTERVAL_S = 60.0
_DATABASE_TIME = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())::double precision",
}

log = structlog.get_logger("tollkeeper.database")


async def read_skew_s(database: Database) -> float:
    """Returns by how many seconds at least the database's clock is ahead of this machine's, or behind if negative.

    It is 0 for a time between the begin and the end of the query: a slow query is no difference of clocks.
    Raises DatabaseUnavailable.
    """
    async with database.session() as session:
        connection = await session.connection()
        before = time.time()
        found = float((await connection.execute(text(_DATABASE_TIME[connection.dialect.name]))).scalar_one())
        return found - min(max(found, before), time.time())


class DatabaseClock:
    """Compares the clocks beside the server, once a minute. `skew_s` is the last result, None before the first."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._task: asyncio.Task[None] | None = None
        self.skew_s: float | None = None

    @property
    def is_off(self) -> bool:
        """Whether the clocks differed by more than MAX_SKEW_S when they were last compared."""
        return self.skew_s is not None and abs(self.skew_s) > MAX_SKEW_S

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="database-clock")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            was_off = self.is_off
            with suppress(DatabaseUnavailable):
                self.skew_s = await read_skew_s(self._database)
            if self.is_off and not was_off and self.skew_s is not None:
                log.warning("database.clock_skewed", seconds=round(self.skew_s, 3))
            await asyncio.sleep(INTERVAL_S)
