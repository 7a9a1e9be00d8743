"""What has to be done beside the running of jobs: end those that were left behind, delete old ones, count the rest."""

import asyncio
from collections.abc import Mapping

import structlog

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable, LedgerUnavailable
from tollkeeper.jobs import repository
from tollkeeper.jobs.repository import PENDING, PROCESSING
from tollkeeper.jobs.run import JobRuns
from tollkeeper.jobs.running import RunningJobs
from tollkeeper.jobs.service import HOUR_MS
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

MAX_INTERVAL_S = 15.0
NEW_MS = 600_000
"""How long a stored job may take to be submitted. After that, the process that stored it has ended."""
BATCH = 200

log = structlog.get_logger("tollkeeper.jobs")


class JobUpkeep:
    """Runs beside the server. Jobs that ended are kept for `result_hours`.

    `open_jobs` counts the pending and the processing ones of the whole installation, as of the last run;
    `oldest_pending_s` is the age of the oldest pending one, in seconds.
    """

    def __init__(
        self,
        database: Database,
        runs: JobRuns,
        running: RunningJobs,
        clock: Clock,
        *,
        result_hours: float,
        interval_s: float = MAX_INTERVAL_S,
        on_run: NoteRun = ignore_run,
    ) -> None:
        self._database = database
        self._runs = runs
        self._running = running
        self._clock = clock
        self._result_ms = int(result_hours * HOUR_MS)
        self._interval_s = min(interval_s, MAX_INTERVAL_S)
        self._on_run = on_run
        self._task: asyncio.Task[None] | None = None
        self.open_jobs: Mapping[str, int] = {PENDING: 0, PROCESSING: 0}
        self.oldest_pending_s = 0.0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="jobs-upkeep")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run_once(self) -> None:
        """Raises DatabaseUnavailable, LedgerUnavailable."""
        await self._end_left_behind()
        await self._delete_old()
        async with self._database.session() as session:
            self.open_jobs, oldest_ms = await repository.count_open(session)
        self.oldest_pending_s = max(0, self._clock.now_ms() - oldest_ms) / 1000 if oldest_ms is not None else 0.0

    async def _end_left_behind(self) -> None:
        """End jobs whose charges the sweep has closed, and jobs that were not started in time."""
        now_ms = self._clock.now_ms()
        async with self._database.session() as session:
            processing = await repository.list_processing(session, BATCH)
            overdue = await repository.list_overdue(session, now_ms, BATCH)
            left_behind = {
                job.id
                for job in processing
                if (charge := await repository.charge_of(session, job)) is None or self._runs.is_left_behind(charge)
            }
        for job in processing:
            if job.id in left_behind and job.id not in self._running.ids:
                await self._runs.resolve(job)
        for job in overdue:
            await self._runs.expire(job)

    async def _delete_old(self) -> None:
        now_ms = self._clock.now_ms()
        deleted = BATCH
        while deleted >= BATCH:
            async with self._database.session() as session:
                deleted = await repository.delete_old(
                    session,
                    new_before_ms=now_ms - NEW_MS,
                    ended_before_ms=now_ms - self._result_ms,
                    limit=BATCH,
                )

    async def _run(self) -> None:
        while True:
            try:
                with noted(self._on_run, Task.JOBS):
                    await self.run_once()
            except (DatabaseUnavailable, LedgerUnavailable):
                log.warning("jobs.upkeep_failed", reason="the database does not respond")
            except Exception:
                log.exception("jobs.upkeep_failed")
            await asyncio.sleep(self._interval_s)
