"""Looks for work that is due in the queues of the database, with one statement for all of them.

Each queue has a runner, which claims what is due. To have each runner look for itself costs a transaction a second for
each queue, in every process, also while there is nothing to do.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog
from sqlalchemy import BigInteger, BindParameter, ColumnElement, bindparam
from sqlmodel import select

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable

INTERVAL_S = 1.0
"""How often a process looks."""
OWN_INTERVAL_S = 15.0
"""How often the runner of a queue looks for itself, if this looks for it."""

NOW_MS: BindParameter[int] = bindparam("now_ms", type_=BigInteger)
"""The time, in the condition of a queue."""

log = structlog.get_logger("tollkeeper.database")


class _Queue(NamedTuple):
    is_due: ColumnElement[bool]
    wake: Callable[[], object]


class DueWork:
    """Wakes the runner of each queue in which something is due, from `start` until `stop`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._queues: list[_Queue] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, is_due: ColumnElement[bool], wake: Callable[[], object]) -> None:
        """Look for a queue, too. `is_due` is a condition with NOW_MS; `wake` is called while it is true."""
        self._queues.append(_Queue(is_due, wake))

    def start(self) -> None:
        """Begin to look. Call `add` before."""
        if self._queues:
            self._task = asyncio.create_task(self._run(), name="due-work")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> None:
        """Look once. Raises DatabaseUnavailable."""
        statement = select(*(queue.is_due for queue in self._queues))
        async with self._database.session() as session:
            connection = await session.connection()
            found = (await connection.execute(statement, {"now_ms": self._clock.now_ms()})).one()
        for queue, is_due in zip(self._queues, found, strict=True):
            if is_due:
                queue.wake()

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except DatabaseUnavailable:
                for queue in self._queues:  # its runner notices, and logs it
                    queue.wake()
            except Exception:
                log.exception("database.due_work_failed")
            await asyncio.sleep(INTERVAL_S)
