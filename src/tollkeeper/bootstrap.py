"""The composition root: it chooses the concrete classes and connects them. Tests replace `Backends`.

`bootstrap_ledger` and `bootstrap_catalog` make the parts that commands need, too.
"""

import gc
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from starlette.types import ASGIApp

from tollkeeper.administration.verifications import make_verifications
from tollkeeper.api.dependencies import Services
from tollkeeper.app import create_app
from tollkeeper.audit_log.head_log import HeadLog
from tollkeeper.bootstrap_catalog import make_catalog as make_catalog
from tollkeeper.bootstrap_identity import make_identity
from tollkeeper.bootstrap_ledger import make_ledger as make_ledger
from tollkeeper.bootstrap_ledger import make_store
from tollkeeper.bootstrap_metrics import ServerMetrics
from tollkeeper.clock import Clock, SystemClock
from tollkeeper.configuration.live import Configuration, LiveConfiguration
from tollkeeper.configuration.provider_keys import read_key
from tollkeeper.configuration.switches import Switchable
from tollkeeper.conversations import Conversations
from tollkeeper.conversations.retention import ConversationRetention
from tollkeeper.db import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.garbage_collection import collect_rarely
from tollkeeper.gateway.call_events import CallEvents, call_log
from tollkeeper.gateway.path import Gateway
from tollkeeper.gateway.stored_responses import StoredResponses
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.identity.cleanup import IdentityCleanup
from tollkeeper.identity.failed_logins import FailedLogins
from tollkeeper.providers.catalog import Catalog
from tollkeeper.providers.tenant_providers import TenantKey
from tollkeeper.quota import queries
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.maintenance import Maintenance
from tollkeeper.quota.spill import Spill
from tollkeeper.quota.stores.base import Store
from tollkeeper.settings import Settings, load_settings
from tollkeeper.telemetry.logging import AccessLog, configure_logging
from tollkeeper.telemetry.loop_watchdog import LoopWatchdog
from tollkeeper.throttle import Throttle

log = structlog.get_logger("tollkeeper.database")


@dataclass(frozen=True, slots=True)
class Backends:
    """What tests replace: the ledger's store, the catalog with its providers, and what could not be booked."""

    store: Store
    catalog: Catalog
    spill: Spill


def make_backends(settings: Settings) -> Backends:
    return Backends(make_store(settings), make_catalog(settings), Spill(settings.spill_folder))


def make_app(settings: Settings | None = None, backends: Backends | None = None) -> ASGIApp:
    """The application for these settings (from the environment, if none are given)."""
    settings = settings or load_settings()
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stdout.isatty())
    configure_logging(settings.log_level, as_text=as_text)
    access_log = AccessLog(settings.log_level, as_text=as_text)
    metrics = ServerMetrics()
    listeners = [call_log(access_log.write_line)] if access_log.enabled else []
    call_events = CallEvents(metrics.calls, *listeners, logs_texts=settings.log_provider_errors)
    clock = SystemClock()
    throttle = Throttle(
        login=settings.rate_limit_login,
        ai=settings.rate_limit_ai,
        reads=settings.rate_limit_reads,
        handshakes=settings.rate_limit_handshakes,
        clock=clock,
    )

    @asynccontextmanager
    async def services() -> AsyncIterator[Services]:
        made_backends = backends or make_backends(settings)
        with metrics.served(settings):
            async with _services(settings, throttle, made_backends, clock, call_events, metrics) as made:
                yield made

    return create_app(services, throttle, access_log, settings.trusted_proxies, settings.origins)


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
    call_events: CallEvents,
    metrics: ServerMetrics,
) -> AsyncIterator[Services]:
    """The services of a running server. On exit, the ledger commits what is queued, and all connections close."""
    async with AsyncExitStack() as stack:  # what is pushed last is stopped first
        database = Database(settings.database_url)
        stack.push_async_callback(database.close)
        identity = make_identity(settings, database, clock)
        stack.callback(identity.outbound.close)
        stack.callback(identity.passwords.close)
        stack.push_async_callback(backends.catalog.close)
        ledger = make_ledger(settings, backends.store, metrics.batches)
        stack.push_async_callback(ledger.stop, keep_unbooked=backends.spill.write)
        await _check_schema(database)
        await identity.load(database, clock)
        configuration = LiveConfiguration(database, partial(_configure, backends.catalog, identity.data_keys))
        await configuration.refresh()
        ledger.start()
        await backends.spill.book(ledger, partial(queries.tenant_of, database))
        for task in (
            _make_maintenance(settings, ledger),
            ConversationRetention(database, days=settings.conversation_days, clock=clock),
            identity.api_keys.uses,
            configuration,
            IdentityCleanup(database, clock),
            HeadLog(database, clock),
        ):
            task.start()
            stack.push_async_callback(task.stop)
        failed_logins = FailedLogins()
        stack.callback(failed_logins.write)
        verifications = make_verifications(settings.database_url, clock)
        stack.push_async_callback(verifications.stop)
        _freeze_startup_objects()
        watchdog = LoopWatchdog()
        metrics.watch(ledger, watchdog)
        watchdog.start()
        stack.push_async_callback(watchdog.stop)
        yield Services(
            settings=settings,
            database=database,
            passwords=identity.passwords,
            tokens=identity.tokens,
            authenticator=identity.authenticator,
            logins=identity.logins,
            sessions=identity.sessions,
            second_factors=identity.second_factors,
            failed_logins=failed_logins,
            throttle=throttle,
            ledger=ledger,
            gateway=_make_gateway(settings, ledger, backends.catalog, identity.data_keys),
            call_events=call_events,
            conversations=Conversations(database, settings.conversation_tokens, keys=identity.data_keys, clock=clock),
            data_keys=identity.data_keys,
            audit_log=identity.audit_log,
            openid=identity.openid,
            verifications=verifications,
            clock=clock,
            metrics=metrics.registry,
        )


async def _check_schema(database: Database) -> None:
    """Raises ConfigurationError, SchemaMissing. Logs why row-level security is not used, if it is not."""
    await database.require_current_schema()
    if (problem := await database.enable_row_security()) is not None:
        log.warning("database.row_security_unused", reason=problem)


def _make_maintenance(settings: Settings, ledger: Ledger) -> Maintenance:
    return Maintenance(
        ledger,
        lease_seconds=settings.lease_seconds,
        sweep_seconds=settings.sweep_seconds,
        free_charges_days=settings.free_charges_days,
        guard=ledger.lease_guard(
            lambda: make_store(settings), max_stall_s=settings.stream_total_seconds + settings.lease_seconds
        ),
        on_store_lost=lambda _: signal.raise_signal(signal.SIGTERM),
    )


def _make_gateway(settings: Settings, ledger: Ledger, catalog: Catalog, data_keys: DataKeys) -> Gateway:
    deadlines = Deadlines(
        first_s=settings.timeout_seconds,
        idle_s=settings.stream_idle_seconds,
        total_s=settings.stream_total_seconds,
        ping_s=settings.stream_ping_seconds,
    )
    return Gateway(ledger, catalog, deadlines, StoredResponses(data_keys), default_output=settings.max_tokens)


async def _configure(catalog: Catalog, data_keys: DataKeys, configuration: Configuration) -> None:
    """Apply what administrators have configured. A tenant's key is decrypted when it is first used."""
    off = {kind: {one.name for one in configuration.switched_off if one.kind == kind.value} for kind in Switchable}
    keys = [
        TenantKey(row.tenant_id, row.provider, row.id, partial(read_key, data_keys, row))
        for row in configuration.provider_keys
    ]
    await catalog.configure(off[Switchable.MODEL], off[Switchable.PROVIDER], keys)
