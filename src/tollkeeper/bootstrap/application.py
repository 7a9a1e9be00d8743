"""The composition root: it chooses the concrete classes and connects them."""

import gc
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from starlette.types import ASGIApp

from tollkeeper.administration.doctor import Doctor
from tollkeeper.administration.verifications import make_verifications
from tollkeeper.alerts.task import QuotaAlerts
from tollkeeper.api.body_budget import BodyBudget
from tollkeeper.api.dependencies import Services
from tollkeeper.app import create_app
from tollkeeper.bootstrap.backends import Backends, make_backends
from tollkeeper.bootstrap.checks import run_checks
from tollkeeper.bootstrap.cleanups import PeriodicTask, make_cleanups
from tollkeeper.bootstrap.core import Core, open_core
from tollkeeper.bootstrap.documents import make_documents, processing_documents
from tollkeeper.bootstrap.events import running
from tollkeeper.bootstrap.files import make_batches
from tollkeeper.bootstrap.gateway import make_gateway
from tollkeeper.bootstrap.health import make_health
from tollkeeper.bootstrap.instruments import Instruments, log_thread, make_instruments
from tollkeeper.bootstrap.jobs import make_jobs, running_jobs
from tollkeeper.bootstrap.ledger import make_store
from tollkeeper.bootstrap.reload import Reload
from tollkeeper.bootstrap.webhooks import sending_webhooks
from tollkeeper.bootstrap.workers import OneOfSeveral, metrics_of_all, metrics_port
from tollkeeper.clock import Clock, SystemClock
from tollkeeper.conversations import Conversations
from tollkeeper.database.clock import DatabaseClock
from tollkeeper.database.due_work import DueWork
from tollkeeper.garbage_collection import collect_rarely
from tollkeeper.identity.failed_logins import FailedLogins
from tollkeeper.jobs.running import RunningJobs
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.maintenance import Maintenance
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.server.limits import Connections
from tollkeeper.settings import Settings, load_settings
from tollkeeper.telemetry.health import Health
from tollkeeper.telemetry.loop_watchdog import LoopWatchdog
from tollkeeper.telemetry.task_runs import NoteRun
from tollkeeper.usage.rollup import UsageRollup
from tollkeeper.usage.statement_closing import StatementClosing
from tollkeeper.usage.task import UsageTask


def make_app(
    settings: Settings | None = None,
    backends: Backends | None = None,
    connections: Connections | None = None,
    one: OneOfSeveral | None = None,
) -> ASGIApp:
    """The application for these settings (from the environment, if none are given).

    `connections` are those of the server's protocols, for the metrics. `one` says which of several workers this is.
    """
    settings = settings or load_settings()
    instruments = make_instruments(settings, connections, one)
    throttle = _make_throttle(settings)
    services = partial(running_services, settings, throttle, backends, instruments, one)
    return create_app(
        services,
        throttle,
        instruments.access_log,
        settings.trusted_proxies,
        settings.origins,
        observe=instruments.metrics.requests,
        legacy_routes=settings.legacy_routes == "on",
    )


@asynccontextmanager
async def running_worker(settings: Settings, backends: Backends, connections: Connections) -> AsyncIterator[Services]:
    """The services of a process that only runs jobs. `connections` has none, but says when to stop."""
    instruments = make_instruments(settings, connections, None)
    async with running_services(settings, _make_throttle(settings), backends, instruments, None) as made:
        yield made


def _make_throttle(settings: Settings) -> Throttle:
    return Throttle(
        login=settings.rate_limit_login,
        ai=settings.rate_limit_ai,
        reads=settings.rate_limit_reads,
        handshakes=settings.rate_limit_handshakes,
        clock=SystemClock(),
        store_url=settings.limits_store.get_secret_value() if settings.limits_store is not None else None,
    )


@asynccontextmanager
async def running_services(
    settings: Settings,
    throttle: Throttle,
    backends: Backends | None,
    instruments: Instruments,
    one: OneOfSeveral | None,
) -> AsyncIterator[Services]:
    """The services of a process, with its metrics and the sinks of its events, for the length of the block."""
    backends, metrics = backends or make_backends(settings), instruments.metrics
    with (
        log_thread(instruments.log_writer),
        metrics_of_all(metrics.registry, one) as metrics.shown,
        metrics_port(settings, metrics.shown, one),
    ):
        async with (
            running(instruments.sinks),
            _services(settings, throttle, backends, SystemClock(), instruments, one) as made,
        ):
            metrics.watch_edge(throttle, made.failed_logins, made.jobs, instruments.connections)
            yield made


def _freeze_startup_objects() -> None:
    """Exempt all objects so far from garbage collection: they live as long as the process. Hardly any are garbage."""
    collect_rarely()
    gc.freeze()


@asynccontextmanager
async def _services(
    settings: Settings,
    throttle: Throttle,
    backends: Backends,
    clock: Clock,
    instruments: Instruments,
    one: OneOfSeveral | None,
) -> AsyncIterator[Services]:
    """The services of a running server. On exit, the ledger commits what is queued, and all connections close."""
    metrics = instruments.metrics
    async with AsyncExitStack() as stack:  # what is pushed last is stopped first
        core = await open_core(stack, settings, backends, clock, metrics, throttle)
        database, identity, ledger, data_keys = core.database, core.identity, core.ledger, core.identity.data_keys
        health = _start_tasks(stack, core, backends, throttle, instruments, one)
        await throttle.start()
        stack.push_async_callback(throttle.stop)
        failed_logins = FailedLogins()
        stack.callback(failed_logins.write)
        verifications = make_verifications(settings.database_url, clock)
        stack.push_async_callback(verifications.stop)
        _freeze_startup_objects()
        gateway = make_gateway(settings, database, ledger, backends.catalog, data_keys, core.calls)
        stack.push_async_callback(gateway.sampled.stop)
        running = RunningJobs()
        drains = lambda: instruments.connections.is_draining  # noqa: E731
        jobs = make_jobs(settings, database, ledger, gateway, data_keys, clock, running)
        call_events = instruments.call_events
        parts = make_documents(
            settings, database, gateway, call_events, data_keys, clock, metrics, jobs, is_draining=drains
        )
        made = Services(
            settings=settings,
            database=database,
            passwords=identity.passwords,
            tokens=identity.tokens,
            authenticator=identity.authenticator,
            tag_values=identity.tag_values,
            logins=identity.logins,
            sessions=identity.sessions,
            second_factors=identity.second_factors,
            failed_logins=failed_logins,
            throttle=throttle,
            ledger=ledger,
            gateway=gateway,
            call_events=call_events,
            event_tail=instruments.event_tail,
            conversations=Conversations(database, settings.conversation_tokens, keys=data_keys, clock=clock),
            data_keys=data_keys,
            audit_log=identity.audit_log,
            openid=identity.openid,
            verifications=verifications,
            doctor=_make_doctor(stack, settings, clock),
            clock=clock,
            metrics=metrics.shown,
            health=health,
            jobs=jobs,
            webhook_client=core.webhook_client,
            documents=parts.documents,
            retriever=parts.retriever,
            uploads=BodyBudget(),
            batches=make_batches(settings, database, data_keys, clock),
        )
        due_work = DueWork(database, clock)
        await stack.enter_async_context(sending_webhooks(made, metrics, due_work, drains))
        await stack.enter_async_context(running_jobs(made, running, metrics, due_work, drains))
        await stack.enter_async_context(processing_documents(settings, parts, metrics, due_work))
        due_work.start()
        stack.push_async_callback(due_work.stop)
        yield made


def _make_doctor(stack: AsyncExitStack, settings: Settings, clock: Clock) -> Doctor:
    doctor = Doctor(partial(run_checks, settings), clock)
    stack.push_async_callback(doctor.stop)
    return doctor


def _start_tasks(
    stack: AsyncExitStack,
    core: Core,
    backends: Backends,
    throttle: Throttle,
    instruments: Instruments,
    one: OneOfSeveral | None,
) -> Health:
    """Start what runs beside the server. Returns the checks of its state."""
    settings, metrics, catalog = core.settings, instruments.metrics, backends.catalog
    watchdog, database_clock = LoopWatchdog(), DatabaseClock(core.database)
    rollup = UsageRollup(core.database, core.clock)
    maintenance = _make_maintenance(settings, core.ledger, rollup, metrics.task_runs.note)
    source, set_level = backends.catalog_source, instruments.set_log_level
    reload = Reload(settings, catalog, source, set_level, on_reload=core.calls.cache.clear)
    alerts = QuotaAlerts(core.database, core.clock, interval_s=settings.sweep_seconds, on_run=metrics.task_runs.note)
    metrics.watch_alerts(alerts)
    tasks: tuple[PeriodicTask, ...] = (
        maintenance,
        alerts,
        _make_usage_task(settings, core, rollup, metrics.task_runs.note),
        reload,
        database_clock,
        core.calls.contents,
        core.calls.moderation_counts,
        core.calls.score_counts,
        core.identity.api_keys.uses,
        core.configuration,
        *make_cleanups(settings, core.database, core.clock, metrics.task_runs, one),
        watchdog,
    )
    for task in tasks:
        task.start()
        stack.push_async_callback(task.stop)
    metrics.watch_ledger(core.ledger, catalog, watchdog, database_clock)
    metrics.watch_contents(core.calls.contents)
    metrics.watch_cache(core.calls.cache)
    metrics.watch_scores(core.calls.score_counts)
    drains = lambda: instruments.connections.is_draining  # noqa: E731
    return make_health(core.ledger, catalog, maintenance, database_clock, reload, throttle, instruments.sinks, drains)


def _make_usage_task(settings: Settings, core: Core, rollup: UsageRollup, on_run: NoteRun) -> UsageTask:
    closing = StatementClosing(core.database, core.clock)
    return UsageTask(rollup, closing, interval_s=settings.sweep_seconds, on_run=on_run)


def _make_maintenance(settings: Settings, ledger: Ledger, rollup: UsageRollup, on_run: NoteRun) -> Maintenance:
    return Maintenance(
        ledger,
        lease_seconds=settings.lease_seconds,
        sweep_seconds=settings.sweep_seconds,
        free_charges_days=settings.free_charges_days,
        guard=ledger.lease_guard(
            lambda: make_store(settings), max_stall_s=settings.stream_total_seconds + settings.lease_seconds
        ),
        on_store_lost=lambda _: signal.raise_signal(signal.SIGTERM),
        on_run=on_run,
        may_delete_until=rollup.has_counted_until,
    )
