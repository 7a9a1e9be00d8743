"""Takes the open batches of all users further, one at a time, and cleans up behind them."""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from tollkeeper.batches import repository
from tollkeeper.batches.service import Batches
from tollkeeper.batches.steps import BatchSteps
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.files import repository as files_repository
from tollkeeper.files.store import Files
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

TICK_S = 0.1
"""The pause between two looks for a batch that is due, while some are open; and between two looks for a new one of this
process."""
IDLE_S = 1.0
"""The first of these while none is open, by default."""
BUSY_S = 3.0
"""For so long after the last step, some batch may be open. It is longer than a batch waits for its next step."""
UPKEEP_S = 15.0
UPLOAD_MS = 3_600_000
"""How long an upload may take. After that, the process that received it has ended."""
FILES_AT_ONCE = 100

log = structlog.get_logger("tollkeeper.batches")


class BatchRunner:
    """Runs beside the server, unless it `is_draining`. `open_batches` counts those of the whole installation, by kind
    and status, as of the last upkeep.
    """

    def __init__(
        self,
        database: Database,
        batches: Batches,
        steps: BatchSteps,
        files: Files,
        clock: Clock,
        *,
        interval_s: float = UPKEEP_S,
        idle_s: float = IDLE_S,
        on_run: NoteRun = ignore_run,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._batches = batches
        self._steps = steps
        self._files = files
        self._clock = clock
        self._interval_s = min(interval_s, UPKEEP_S)
        self._idle_s = idle_s
        self._on_run = on_run
        self._is_draining = is_draining
        self._tasks: list[asyncio.Task[None]] = []
        self._busy_until = 0.0
        self.open_batches: Mapping[tuple[str, str], int] = {}

    def wake(self) -> None:
        """Look for a batch that is due now."""
        self._batches.has_work = True

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name="batches"),
            asyncio.create_task(self._keep_up(), name="batches-upkeep"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def upkeep(self) -> None:
        """Delete old batches and files, and count the open batches. Raises DatabaseUnavailable."""
        async with self._database.session() as session:
            self.open_batches = await repository.count_by_kind(session)
        now_ms = self._clock.now_ms()
        deleted = FILES_AT_ONCE
        while deleted >= FILES_AT_ONCE:
            async with self._database.session() as session:
                deleted = await repository.delete_ended(session, now_ms - self._files.lifetime_ms, FILES_AT_ONCE)
        async with self._database.session() as session:
            due = await files_repository.list_due(
                session,
                now_ms=now_ms,
                started_before_ms=now_ms - UPLOAD_MS,
                keep=repository.is_input_of_open_batch(),
                limit=FILES_AT_ONCE,
            )
        for file in due:
            await self._files.delete(file)

    async def _run(self) -> None:
        while True:
            try:
                is_busy = not self._is_draining() and await self._take_all()
            except DatabaseUnavailable:
                log.warning("batches.waiting", reason="the database does not respond")
                is_busy = False
            except Exception:
                log.exception("batches.step_failed")
                is_busy = False
            await self._wait(TICK_S if is_busy else self._idle_s)

    async def _take_all(self) -> bool:
        """Take each batch that is due one step further. Returns whether there was one a moment ago."""
        self._batches.has_work = False
        while not self._is_draining():
            async with self._database.session() as session:
                batch = await repository.claim(session, self._clock.now_ms())
            if batch is None:
                break
            self._busy_until = time.monotonic() + BUSY_S
            await self._steps.take(batch)
        return time.monotonic() < self._busy_until

    async def _wait(self, seconds: float) -> None:
        """Wait, but no longer than until this process has a new batch."""
        for _ in range(max(1, round(seconds / TICK_S))):
            await asyncio.sleep(TICK_S)
            if self._batches.has_work:
                return

    async def _keep_up(self) -> None:
        while True:
            try:
                with noted(self._on_run, Task.BATCHES):
                    await self.upkeep()
            except DatabaseUnavailable:
                log.warning("batches.upkeep_failed", reason="the database does not respond")
            except Exception:
                log.exception("batches.upkeep_failed")
            await asyncio.sleep(self._interval_s)
