"""Makes the parts of background jobs, and runs them beside a server or in a worker."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tollkeeper.api.compat.batch_lines import batch_kinds, line_kinds
from tollkeeper.api.dependencies import Services
from tollkeeper.api.native.job_kinds import job_kinds
from tollkeeper.batches.line_counts import BatchLines
from tollkeeper.batches.repository import has_due as has_due_batch
from tollkeeper.batches.runner import BatchRunner
from tollkeeper.batches.steps import BatchSteps
from tollkeeper.bootstrap.batch_metrics import watch_batches
from tollkeeper.bootstrap.metrics import ServerMetrics
from tollkeeper.clock import Clock
from tollkeeper.database.due_work import NOW_MS, OWN_INTERVAL_S, DueWork
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.gateway.path import Gateway
from tollkeeper.jobs.repository import has_due as has_due_job
from tollkeeper.jobs.run import JobRuns
from tollkeeper.jobs.runner import JobRunner
from tollkeeper.jobs.running import RunningJobs
from tollkeeper.jobs.service import Jobs
from tollkeeper.jobs.upkeep import JobUpkeep
from tollkeeper.quota.ledger import Ledger
from tollkeeper.settings import Settings
from tollkeeper.telemetry.task_runs import Task


def make_jobs(
    settings: Settings,
    database: Database,
    ledger: Ledger,
    gateway: Gateway,
    keys: DataKeys,
    clock: Clock,
    running: RunningJobs,
) -> Jobs:
    """What submits and cancels jobs."""
    return Jobs(
        database,
        ledger,
        gateway,
        keys,
        clock,
        running,
        hours=settings.job_hours,
        per_user=settings.jobs_per_user,
    )


@asynccontextmanager
async def running_jobs(
    services: Services,
    running: RunningJobs,
    metrics: ServerMetrics,
    due_work: DueWork,
    is_draining: Callable[[], bool],
) -> AsyncIterator[None]:
    """Run jobs for the length of the block, unless the settings leave that to workers. `due_work` wakes the runners."""
    settings = services.settings
    if settings.jobs == "off":
        metrics.task_runs.leave_out(Task.JOBS)
        metrics.task_runs.leave_out(Task.BATCHES)
        yield
        return
    runs = JobRuns(
        services.database,
        services.ledger,
        services.gateway,
        services.call_events,
        services.jobs.contents,
        {**job_kinds(services), **line_kinds(services)},
        services.clock,
    )
    runner = JobRunner(
        services.database,
        runs,
        running,
        services.clock,
        concurrency=settings.jobs_concurrency,
        grace_s=settings.grace_seconds,
        interval_s=OWN_INTERVAL_S,
        is_draining=is_draining,
    )
    upkeep = JobUpkeep(
        services.database,
        runs,
        running,
        services.clock,
        result_hours=settings.job_result_hours,
        interval_s=settings.sweep_seconds,
        on_run=metrics.task_runs.note,
    )
    batch_lines = BatchLines(batch_kinds(services))
    batches = _batch_runner(services, running, batch_lines, metrics, is_draining)
    metrics.watch_jobs(upkeep, running)
    watch_batches(metrics.registry, batches, batch_lines)
    due_work.add(has_due_job(NOW_MS), running.woken.set)
    due_work.add(has_due_batch(NOW_MS), batches.wake)
    upkeep.start()
    runner.start()
    batches.start()
    try:
        yield
    finally:
        await batches.stop()
        await runner.stop()
        await upkeep.stop()


def _batch_runner(
    services: Services,
    running: RunningJobs,
    batch_lines: BatchLines,
    metrics: ServerMetrics,
    is_draining: Callable[[], bool],
) -> BatchRunner:
    settings, batches = services.settings, services.batches
    steps = BatchSteps(
        services.database,
        services.batches.files,
        batches.contents,
        services.jobs.contents,
        batch_kinds(services),
        services.clock,
        on_lines=batch_lines.note,
        on_jobs=running.woken.set,
    )
    return BatchRunner(
        services.database,
        batches,
        steps,
        services.batches.files,
        services.clock,
        interval_s=settings.sweep_seconds,
        idle_s=OWN_INTERVAL_S,
        on_run=metrics.task_runs.note,
        is_draining=is_draining,
    )
