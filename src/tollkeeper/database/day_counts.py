"""Sums per tenant and day (UTC), such as how often something has happened: added up in memory, stored by a task.

No call waits for the database. What a killed process has counted in its last seconds is lost.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import text

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable

INTERVAL_S = 5.0
MAX_COUNTED = 10_000
"""Different sums that wait to be stored. While the database is away, further ones are left out."""
KEPT_DAYS = 400

log = structlog.get_logger("tollkeeper.database")

Key = tuple[Any, ...]
"""What is counted by itself: the values of the key columns but for the day, the tenant first."""


class DayCounts:
    """Sums in a table whose primary key is the `day` and the `keys`, and whose other columns are the `sums`."""

    def __init__(self, database: Database, clock: Clock, table: str, keys: Sequence[str], sums: Sequence[str]) -> None:
        self._database = database
        self._clock = clock
        self._table = table
        self._columns = (*keys, "day", *sums)
        added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
        values = ", ".join(f":{name}" for name in self._columns)
        self._add_rows = text(
            f"INSERT INTO {table} ({', '.join(self._columns)}) VALUES ({values})"
            f" ON CONFLICT ({', '.join((*keys, 'day'))}) DO UPDATE SET {added}"
        )
        self._delete_old = text(f"DELETE FROM {table} WHERE day < :oldest")
        self._waiting: dict[tuple[Key, str], tuple[int, ...]] = {}
        self._cleaned_on = ""
        self._task: asyncio.Task[None] | None = None

    def add(self, key: Key, *numbers: int) -> None:
        """Add these numbers to today's sums of the key."""
        place = key, self._today()
        if place not in self._waiting and len(self._waiting) >= MAX_COUNTED:
            return
        self._put(place, numbers)

    def start(self) -> None:
        """Begin to store."""
        self._task = asyncio.create_task(self._run(), name=self._table)

    async def stop(self) -> None:
        """Store what waits, and end."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(DatabaseUnavailable):
            await self.store()

    async def store(self) -> None:
        """Add what waits to the database. Raises DatabaseUnavailable: then it waits on."""
        today = self._today()
        if not self._waiting and self._cleaned_on == today:
            return
        waiting, self._waiting = self._waiting, {}
        try:
            async with self._database.session() as session:
                connection = await session.connection()
                for (key, day), numbers in sorted(waiting.items()):  # one order: no deadlock
                    values = dict(zip(self._columns, (*key, day, *numbers), strict=True))
                    await connection.execute(self._add_rows, values)
                if self._cleaned_on != today:
                    oldest = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC) - timedelta(days=KEPT_DAYS)
                    await connection.execute(self._delete_old, {"oldest": oldest.date().isoformat()})
            self._cleaned_on = today
        except DatabaseUnavailable:
            for place, numbers in waiting.items():
                self._put(place, numbers)
            raise

    def _put(self, place: tuple[Key, str], numbers: tuple[int, ...]) -> None:
        before = self._waiting.get(place, (0,) * len(numbers))
        self._waiting[place] = tuple(one + more for one, more in zip(before, numbers, strict=True))

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC).date().isoformat()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.store()
            except DatabaseUnavailable:
                log.warning("database.counts_not_stored", reason="the database does not respond")
            except Exception:
                log.exception("database.counts_not_stored")
