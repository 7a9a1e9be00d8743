"""The composition root: it chooses the concrete classes and connects them. Tests replace `Backends`.

`providers.registry` lists the kinds of providers.
"""

import gc
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from starlette.types import ASGIApp

from tollkeeper.api.dependencies import Services
from tollkeeper.app import create_app
from tollkeeper.clock import Clock, SystemClock
from tollkeeper.conversations import Conversations
from tollkeeper.db import Database
from tollkeeper.errors import ConfigurationError
from tollkeeper.gateway.call_events import CallEvents, call_log
from tollkeeper.gateway.path import Gateway
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.identity.authenticator import Authenticator
from tollkeeper.identity.keys import ApiKeys
from tollkeeper.identity.passwords import Passwords
from tollkeeper.identity.signing_secret import load_signing_secret
from tollkeeper.identity.tokens import Tokens
from tollkeeper.providers.base import Wire
from tollkeeper.providers.breaker import CircuitBreaker
from tollkeeper.providers.catalog import Catalog, build_catalog
from tollkeeper.providers.catalog_file import CatalogFile, ProviderEntry, read_catalog, treatments_of
from tollkeeper.providers.echo import make_echo
from tollkeeper.providers.kind import ConfiguredProvider, ProviderKind, ProviderOptions
from tollkeeper.providers.registry import KINDS, KINDS_BY_NAME
from tollkeeper.quota import queries
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.maintenance import Maintenance
from tollkeeper.quota.spill import Spill
from tollkeeper.quota.stores.base import Store
from tollkeeper.quota.stores.postgres.store import PostgresStore
from tollkeeper.quota.stores.sqlite.store import SqliteStore
from tollkeeper.settings import Settings, check_signing_secret, load_settings, read_variable
from tollkeeper.telemetry.logging import AccessLog, configure_logging
from tollkeeper.telemetry.loop_watchdog import LoopWatchdog
from tollkeeper.throttle import Throttle

GARBAGE_THRESHOLD = 10_000
"""How many new objects start a garbage collection. Python's default of 700 suits small programs."""


@dataclass(frozen=True, slots=True)
class Backends:
    """What tests replace: the ledger's store, the catalog with its providers, and what could not be booked."""

    store: Store
    catalog: Catalog
    spill: Spill


def make_store(settings: Settings) -> Store:
    """The ledger's store for the database that the settings name."""
    if settings.sqlite_path is not None:
        return SqliteStore(settings.sqlite_path, SystemClock())
    return PostgresStore(settings.database_url)


def make_ledger(settings: Settings, store: Store | None = None) -> Ledger:
    """A ledger for this process."""
    return Ledger(
        store or make_store(settings), lease_seconds=settings.lease_seconds, queue_limit=settings.ledger_queue
    )


def make_catalog(settings: Settings) -> Catalog:
    """The catalog of the providers in the settings and in the operator's file; without any, of `echo` alone.

    Raises ConfigurationError.
    """
    file = read_catalog(settings.catalog) if settings.catalog is not None else CatalogFile()
    configured = {}
    for kind in KINDS:
        one = kind.from_settings(settings) if kind.from_settings is not None else None
        if one is not None:
            configured[one.provider.name] = _with_breaker(settings, kind, one)
    configured |= {name: _from_entry(settings, name, entry) for name, entry in file.providers.items()}
    return build_catalog(configured.values() or [make_echo(settings)], file)


def _from_entry(settings: Settings, name: str, entry: ProviderEntry) -> ConfiguredProvider:
    """A provider of the operator's file. Raises ConfigurationError when the variable of its API key is not set."""
    key = read_variable(entry.api_key_env) if entry.api_key_env is not None else None
    if entry.api_key_env is not None and key is None:
        # Keys have lower-case letters: one that was put in the place of a name must not be shown.
        variable = entry.api_key_env if entry.api_key_env.isupper() else "The variable of the API key"
        raise ConfigurationError(f"{variable} is not set (named by providers.{name}.api_key_env).")
    options = ProviderOptions(
        name,
        base_url=entry.base_url,
        api_key=key,
        wires=frozenset(map(Wire, entry.wires)) if entry.wires is not None else None,
        wire=Wire(entry.wire) if entry.wire is not None else None,
        api_version=entry.api_version,
        knows_store=entry.knows_store,
        knows_stream_options=entry.knows_stream_options,
    )
    kind = KINDS_BY_NAME[entry.kind]
    configured = kind.from_catalog(options, settings)
    return _with_breaker(settings, kind, configured._replace(extra_parameters=treatments_of(entry.extra_parameters)))


def _with_breaker(settings: Settings, kind: ProviderKind, configured: ConfiguredProvider) -> ConfiguredProvider:
    """The same behind a circuit breaker, unless its kind needs none or the settings turn it off."""
    if settings.breaker_failures == 0 or not kind.behind_breaker:
        return configured
    breaker = CircuitBreaker(
        configured.provider,
        max_failures=settings.breaker_failures,
        period_s=settings.breaker_seconds,
        first_chunk_timeout_s=settings.timeout_seconds,
    )
    return configured._replace(provider=breaker)


def make_backends(settings: Settings) -> Backends:
    return Backends(make_store(settings), make_catalog(settings), Spill(settings.spill_folder))


def make_app(settings: Settings | None = None, backends: Backends | None = None) -> ASGIApp:
    """The application for these settings (from the environment, if none are given)."""
    settings = settings or load_settings()
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stdout.isatty())
    configure_logging(settings.log_level, as_text=as_text)
    access_log = AccessLog(settings.log_level, as_text=as_text)
    listeners = [call_log(access_log.write_line)] if access_log.enabled else []
    call_events = CallEvents(*listeners, logs_texts=settings.log_provider_errors)
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
        async with _services(settings, throttle, made_backends, clock, call_events) as made:
            yield made

    return create_app(services, throttle, access_log, settings.trusted_proxies, settings.origins)


def _freeze_startup_objects() -> None:
    """Exempt all objects so far from garbage collection, and collect the short-lived objects of calls less often.

    The objects of the start-up live as long as the process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)


@asynccontextmanager
async def _services(
    settings: Settings, throttle: Throttle, backends: Backends, clock: Clock, call_events: CallEvents
) -> AsyncIterator[Services]:
    """The services of a running server. On exit, the ledger commits what is queued, and all connections close."""
    database = Database(settings.database_url)
    ledger = make_ledger(settings, backends.store)
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
        load_signing_secret(settings).get_secret_value(),
        previous=check_signing_secret(previous).get_secret_value() if previous else None,
        minutes=settings.access_token_minutes,
        clock=clock,
    )
    api_keys = ApiKeys(database, clock)
    authenticator = Authenticator(tokens, api_keys, clock)
    watchdog = LoopWatchdog()
    try:
        await database.require_current_schema()
        await api_keys.load()
        backends.catalog.model(None)
        ledger.start()
        await backends.spill.book(ledger, partial(queries.tenant_of, database))
        maintenance.start()
        _freeze_startup_objects()
        deadlines = Deadlines(
            first_s=settings.timeout_seconds,
            idle_s=settings.stream_idle_seconds,
            total_s=settings.stream_total_seconds,
            ping_s=settings.stream_ping_seconds,
        )
        gateway = Gateway(ledger, backends.catalog, deadlines, default_output=settings.max_tokens)
        conversations = Conversations(database, settings.conversation_tokens, clock=clock)
        watchdog.start()
        yield Services(
            settings=settings,
            database=database,
            passwords=passwords,
            tokens=tokens,
            authenticator=authenticator,
            throttle=throttle,
            ledger=ledger,
            gateway=gateway,
            call_events=call_events,
            conversations=conversations,
            clock=clock,
        )
    finally:
        await watchdog.stop()
        await maintenance.stop()
        await ledger.stop(keep_unbooked=backends.spill.write)
        await backends.catalog.close()
        passwords.close()
        await database.close()
