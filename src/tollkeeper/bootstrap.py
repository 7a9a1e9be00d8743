"""The composition root: the only file that names concrete parts. Tests swap them through the same door."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp

from tollkeeper.api.dependencies import Services
from tollkeeper.app import create_app
from tollkeeper.clock import SystemClock
from tollkeeper.conversations import Conversations
from tollkeeper.db import Database
from tollkeeper.errors import ConfigurationError
from tollkeeper.gateway import Gateway
from tollkeeper.identity.passwords import Passwords
from tollkeeper.identity.secret import signing_secret
from tollkeeper.identity.tokens import Tokens
from tollkeeper.providers.catalog import Catalog, echo_catalog, openai_catalog
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.openai import OpenAIProvider
from tollkeeper.quota.keeper import Keeper
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.postgres import PostgresStore
from tollkeeper.quota.sqlite import SqliteStore
from tollkeeper.quota.store import Store
from tollkeeper.relaying import Deadlines
from tollkeeper.settings import Settings, check_secret, load_settings
from tollkeeper.telemetry.logging import AccessLog, configure
from tollkeeper.throttle import Throttle

GARBAGE_THRESHOLD = 10_000
"""New objects between two looks for garbage; Python's default of 700 is for small programs."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that tests replace."""

    store: Store
    catalog: Catalog


def make_store(settings: Settings) -> Store:
    """The ledger's store for the database that the settings name."""
    if settings.sqlite_path is not None:
        return SqliteStore(settings.sqlite_path, SystemClock())
    return PostgresStore(settings.database_url)


def make_ledger(settings: Settings, store: Store | None = None) -> Ledger:
    """A ledger of this process's own."""
    return Ledger(
        store or make_store(settings), lease_seconds=settings.lease_seconds, queue_limit=settings.ledger_queue
    )


def make_catalog(settings: Settings) -> Catalog:
    """OpenAI's models where there is a key, else `echo`."""
    if settings.openai_api_key is None:
        echo = EchoProvider(
            tokens=settings.echo_tokens,
            delay_s=settings.echo_delay_seconds,
            tokens_per_second=settings.echo_tokens_per_second,
            failure=settings.echo_failure,
        )
        return echo_catalog(echo)
    return openai_catalog(make_openai(settings), settings.openai_model)


def make_openai(settings: Settings) -> OpenAIProvider:
    """Raises ConfigurationError without a key."""
    if settings.openai_api_key is None:
        raise ConfigurationError("OPENAI_API_KEY is not set, so there is no provider to ask.")
    return OpenAIProvider(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        timeout_s=settings.timeout_seconds,
    )


def make_parts(settings: Settings) -> Parts:
    return Parts(make_store(settings), make_catalog(settings))


def make_app(settings: Settings | None = None, parts: Parts | None = None) -> ASGIApp:
    """The application for these settings (from the environment, if none are given)."""
    settings = settings or load_settings()
    configure(settings.log_level)
    throttle = Throttle(login=settings.rate_limit_login, ai=settings.rate_limit_ai)

    @asynccontextmanager
    async def services() -> AsyncIterator[Services]:
        async with _services(settings, throttle, parts or make_parts(settings)) as made:
            yield made

    return create_app(services, throttle, AccessLog(settings.log_level), settings.trusted_proxies)


def _settle_in() -> None:
    """What was made so far stays for good, and the many short-lived objects of a call are looked at less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)


@asynccontextmanager
async def _services(settings: Settings, throttle: Throttle, parts: Parts) -> AsyncIterator[Services]:
    """Everything that runs while the server does. Leaving lets the ledger land what is queued."""
    database = Database(settings.database_url)
    ledger = make_ledger(settings, parts.store)
    keeper = Keeper(ledger, lease_seconds=settings.lease_seconds, sweep_seconds=settings.sweep_seconds)
    passwords = Passwords(settings.bcrypt_rounds)
    previous = settings.previous_signing_secret
    tokens = Tokens(
        signing_secret(settings).get_secret_value(),
        previous=check_secret(previous).get_secret_value() if previous else None,
        minutes=settings.access_token_minutes,
        clock=SystemClock(),
    )
    try:
        await database.require_current_schema()
        parts.catalog.model(None)
        ledger.start()
        keeper.start()
        _settle_in()
        deadlines = Deadlines(
            first_s=settings.timeout_seconds,
            idle_s=settings.stream_idle_seconds,
            total_s=settings.stream_total_seconds,
            ping_s=settings.stream_ping_seconds,
        )
        gateway = Gateway(ledger, parts.catalog, throttle, deadlines, default_output=settings.max_tokens)
        conversations = Conversations(database, settings.conversation_tokens)
        yield Services(settings, database, passwords, tokens, throttle, ledger, gateway, conversations)
    finally:
        await keeper.stop()
        await ledger.stop()
        await parts.catalog.provider.close()
        passwords.close()
        await database.close()
