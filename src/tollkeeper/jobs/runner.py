"""Starts the jobs of all tenants in turn, as many at a time as this process may run."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.jobs import repository
from tollkeeper.jobs.repository import ClaimedJob
from tollkeeper.jobs.run import JobRuns
from tollkeeper.jobs.running import RunningJobs

INTERVAL_S = 1.0
"""How often a process looks for jobs of its own that were cancelled; and by default for those that wait."""

log = structlog.get_logger("tollkeeper.jobs")


class JobRunner:
    """Runs at most `concurrency` jobs at a time. Each start is of the next tenant that has a job waiting.

    It looks for jobs that wait each `interval_s`, and when it is woken. While the server `is_draining`, no job starts.
    `grace_s` is how long the running ones have from then on.
    """

    def __init__(
        self,
        database: Database,
        runs: JobRuns,
        running: RunningJobs,
        clock: Clock,
        *,
        concurrency: int,
        grace_s: float,
        interval_s: float = INTERVAL_S,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._runs = runs
        self._running = running
        self._clock = clock
        self._concurrency = concurrency
        self._grace_s = grace_s
        self._interval_s = interval_s
        self._is_draining = is_draining
        self._drains_since: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._last_tenant = 0

    def start(self) -> None:
        """Begin to start jobs."""
        self._loops = [
            asyncio.create_task(self._repeat(self._start_jobs, self._wait_for_work), name="jobs-start"),
            asyncio.create_task(self._repeat(self._look_for_cancelled, _pause), name="jobs-cancel"),
        ]

    async def stop(self) -> None:
        """Wait for the running jobs as long as they may go on; then cancel the rest, and close their charges."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._tasks:
            since = self._drains_since or time.monotonic()
            await asyncio.wait(self._tasks, timeout=max(0.0, since + self._grace_s - time.monotonic()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _start_jobs(self) -> None:
        if self._is_draining():
            self._drains_since = self._drains_since or time.monotonic()
            return
        while len(self._tasks) < self._concurrency and (claimed := await self._claim()) is not None:
            self._last_tenant = claimed.job.tenant_id
            task = asyncio.create_task(self._run(claimed), name="job")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def _claim(self) -> ClaimedJob | None:
        async with self._database.session() as session:
            return await repository.claim(session, self._last_tenant, self._clock.now_ms())

    async def _run(self, claimed: ClaimedJob) -> None:
        with self._running.running(claimed.job.id) as listener:
            await self._runs.run(claimed, listener)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._running.woken.set()

    async def _look_for_cancelled(self) -> None:
        if not self._running.ids:
            return
        async with self._database.session() as session:
            cancelled = await repository.cancelled_among(session, self._running.ids)
        for job_id in cancelled:
            self._running.cancel(job_id)

    async def _wait_for_work(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval_s):
                await self._running.woken.wait()
        self._running.woken.clear()

    async def _repeat(self, act: Callable[[], Awaitable[None]], wait: Callable[[], Awaitable[None]]) -> None:
        is_out = False
        while True:
            try:
                await act()
            except DatabaseUnavailable:
                if not is_out:
                    log.warning("jobs.waiting", reason="the database does not respond")
                is_out = True
                await _pause()
            except Exception:
                log.exception("jobs.not_started")
                await _pause()
            else:
                is_out = False
            await wait()


async def _pause() -> None:
    await asyncio.sleep(INTERVAL_S)
