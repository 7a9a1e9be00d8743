"""Deletes conversations that were not used for long."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from sqlalchemy import delete
from sqlmodel import col, select

from tollkeeper.clock import Clock
from tollkeeper.conversations.models import StoredConversation
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

DAY_MS = 86_400_000
INTERVAL_S = 600.0
CHUNK = 200
"""How many conversations one transaction deletes."""

log = structlog.get_logger("tollkeeper.conversations")


class ConversationRetention:
    """Deletes the conversations that were not used for so many days, in chunks. `wait` is awaited before each round,
    and `on_run` called after it.
    """

    def __init__(
        self,
        database: Database,
        *,
        days: int,
        clock: Clock,
        wait: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(INTERVAL_S),
        on_run: NoteRun = ignore_run,
    ) -> None:
        self._database = database
        self._lifetime_ms = days * DAY_MS
        self._clock = clock
        self._wait = wait
        self._on_run = on_run
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="conversation-retention")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def delete_unused(self) -> int:
        """Delete all that are due. Returns how many. Raises DatabaseUnavailable."""
        total = 0
        while (count := await self._delete_chunk()) > 0:
            total += count
        return total

    async def _delete_chunk(self) -> int:
        """Skips conversations that another transaction has locked: they are in use."""
        stored = StoredConversation
        unused = col(stored.updated_ms) < self._clock.now_ms() - self._lifetime_ms
        due = select(col(stored.id)).where(unused).order_by(col(stored.updated_ms)).limit(CHUNK)
        async with self._database.session() as session:
            statement = delete(stored).where(unused, col(stored.id).in_(due.with_for_update(skip_locked=True)))
            return (await session.exec(statement)).rowcount

    async def _run(self) -> None:
        while True:
            await self._wait()
            try:
                with noted(self._on_run, Task.CONVERSATION_RETENTION):
                    await self.delete_unused()
            except DatabaseUnavailable:
                log.warning("conversations.not_deleted", reason="the database does not respond")
            except Exception:
                log.exception("conversations.not_deleted")
