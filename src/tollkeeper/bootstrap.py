"""The composition root: it chooses the concrete classes and connects them. Tests replace `Backends`.

`bootstrap_ledger` and `bootstrap_catalog` make the parts that commands need, too.
"""

import gc
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from starlette.types import ASGIApp

from tollkeeper.administration.verifications import make_verifications
from tollkeeper.api.dependencies import Services
from tollkeeper.app import create_app
from tollkeeper.audit_log.head_log import HeadLog
from tollkeeper.audit_log.log import AuditLog
from tollkeeper.bootstrap_catalog import make_catalog as make_catalog
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
from tollkeeper.identity.authenticator import Authenticator
from tollkeeper.identity.cleanup import IdentityCleanup
from tollkeeper.identity.failed_logins import FailedLogins
from tollkeeper.identity.keys import ApiKeys
from tollkeeper.identity.logins import Logins
from tollkeeper.identity.oidc.client import OpenIdClient
from tollkeeper.identity.passwords import Passwords
from tollkeeper.identity.sessions import Sessions
from tollkeeper.identity.tokens import Tokens
from tollkeeper.identity.totp import SecondFactors
from tollkeeper.installation_secret import DATA_KEY, SIGNING_SECRET
from tollkeeper.outbound.client import OutboundClient
from tollkeeper.providers.catalog import Catalog
from tollkeeper.providers.tenant_providers import TenantKey
from tollkeeper.quota import queries
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
    database = Database(settings.database_url)
    ledger = make_ledger(settings, backends.store, metrics.batches)
    maintenance = Maintenance(
        ledger,
        lease_seconds=settings.lease_seconds,
        sweep_seconds=settings.sweep_seconds,
        free_charges_days=settings.free_charges_days,
        guard=ledger.lease_guard(
            lambda: make_store(settings), max_stall_s=settings.stream_total_seconds + settings.lease_seconds
        ),
        on_store_lost=lambda _: signal.raise_signal(signal.SIGTERM),
    )
    passwords = Passwords(settings.bcrypt_rounds)
    previous = settings.previous_signing_secret
    tokens = Tokens(
        SIGNING_SECRET.load(settings, settings.signing_secret).get_secret_value(),
        previous=SIGNING_SECRET.check(previous).get_secret_value() if previous else None,
        minutes=settings.access_token_minutes,
        clock=clock,
    )
    api_keys = ApiKeys(database, clock)
    authenticator = Authenticator(tokens, api_keys, clock, step_up_minutes=settings.step_up_minutes)
    data_keys = DataKeys(DATA_KEY.load(settings, settings.data_key), previous=settings.previous_data_key)
    audit_log = AuditLog(data_keys)
    sessions = Sessions(tokens, data_keys, audit_log, clock, hours=settings.session_hours)
    second_factors = SecondFactors(data_keys, clock)
    failed_logins = FailedLogins()
    cleanup = IdentityCleanup(database, clock)
    configuration = LiveConfiguration(database, partial(_configure, backends.catalog, data_keys))
    outbound = OutboundClient(settings.private_networks, ca_file=settings.ca_file)
    retention = ConversationRetention(database, days=settings.conversation_days, clock=clock)
    head_log = HeadLog(database, clock)
    verifications = make_verifications(settings.database_url, clock)
    watchdog = LoopWatchdog()
    try:
        await database.require_current_schema()
        if (problem := await database.enable_row_security()) is not None:
            log.warning("database.row_security_unused", reason=problem)
        await data_keys.load(database, clock)
        await api_keys.load()
        await configuration.refresh()
        ledger.start()
        await backends.spill.book(ledger, partial(queries.tenant_of, database))
        maintenance.start()
        cleanup.start()
        configuration.start()
        api_keys.uses.start()
        retention.start()
        head_log.start()
        _freeze_startup_objects()
        deadlines = Deadlines(
            first_s=settings.timeout_seconds,
            idle_s=settings.stream_idle_seconds,
            total_s=settings.stream_total_seconds,
            ping_s=settings.stream_ping_seconds,
        )
        gateway = Gateway(
            ledger, backends.catalog, deadlines, StoredResponses(data_keys), default_output=settings.max_tokens
        )
        conversations = Conversations(database, settings.conversation_tokens, keys=data_keys, clock=clock)
        metrics.watch(ledger, watchdog)
        watchdog.start()
        yield Services(
            settings=settings,
            database=database,
            passwords=passwords,
            tokens=tokens,
            authenticator=authenticator,
            logins=Logins(database, passwords, second_factors, sessions, clock),
            sessions=sessions,
            second_factors=second_factors,
            failed_logins=failed_logins,
            throttle=throttle,
            ledger=ledger,
            gateway=gateway,
            call_events=call_events,
            conversations=conversations,
            data_keys=data_keys,
            audit_log=audit_log,
            openid=OpenIdClient(outbound, settings.public_base_url, clock),
            verifications=verifications,
            clock=clock,
            metrics=metrics.registry,
        )
    finally:
        await watchdog.stop()
        await verifications.stop()
        await head_log.stop()
        await cleanup.stop()
        failed_logins.write()
        await configuration.stop()
        await api_keys.uses.stop()
        await retention.stop()
        await maintenance.stop()
        await ledger.stop(keep_unbooked=backends.spill.write)
        await backends.catalog.close()
        passwords.close()
        outbound.close()
        await database.close()


async def _configure(catalog: Catalog, data_keys: DataKeys, configuration: Configuration) -> None:
    """Apply what administrators have configured. A tenant's key is decrypted when it is first used."""
    off = {kind: {one.name for one in configuration.switched_off if one.kind == kind.value} for kind in Switchable}
    keys = [
        TenantKey(row.tenant_id, row.provider, row.id, partial(read_key, data_keys, row))
        for row in configuration.provider_keys
    ]
    await catalog.configure(off[Switchable.MODEL], off[Switchable.PROVIDER], keys)
