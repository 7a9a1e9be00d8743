"""The composition root: the only file that names concrete parts. Tests swap them through the same door."""

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr
from starlette.types import ASGIApp

from tollkeeper.api.dependencies import Services
from tollkeeper.app import create_app
from tollkeeper.chat import Price
from tollkeeper.clock import SystemClock
from tollkeeper.conversations import Conversations
from tollkeeper.db import Database
from tollkeeper.errors import ConfigurationError
from tollkeeper.gateway.path import Gateway
from tollkeeper.gateway.streaming import Deadlines
from tollkeeper.identity.authenticator import Authenticator
from tollkeeper.identity.keys import ApiKeys
from tollkeeper.identity.passwords import Passwords
from tollkeeper.identity.signing_secret import signing_secret
from tollkeeper.identity.tokens import Tokens
from tollkeeper.providers import anthropic, ollama, openai
from tollkeeper.providers.anthropic import AnthropicProvider
from tollkeeper.providers.base import Provider, Wire
from tollkeeper.providers.breaker import CircuitBreaker
from tollkeeper.providers.catalog import Catalog, Source, build_catalog
from tollkeeper.providers.catalog_file import CatalogFile, ProviderEntry, read_catalog
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.ollama import OllamaProvider
from tollkeeper.providers.openai import OpenAIProvider
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.maintenance import Maintenance
from tollkeeper.quota.stores.base import Store
from tollkeeper.quota.stores.postgres.store import PostgresStore
from tollkeeper.quota.stores.sqlite.store import SqliteStore
from tollkeeper.settings import Settings, check_secret, load_settings, read_variable
from tollkeeper.telemetry.logging import AccessLog, configure
from tollkeeper.throttle import Throttle

GARBAGE_THRESHOLD = 10_000
"""New objects between two looks for garbage; Python's default of 700 is for small programs."""

FREE = Price(0, 0, 0)
NO_KEY = "none"
"""For servers that want no key."""
COMMON_WIRES = frozenset({Wire.CHAT, Wire.EMBEDDINGS})
"""What servers speak that are compatible with OpenAI's."""


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
    """The providers that the settings and the operator's catalog name; without any, `echo`.

    Raises ConfigurationError.
    """
    file = read_catalog(settings.catalog) if settings.catalog is not None else CatalogFile()
    sources = {source.provider.name: source for source in _configured(settings)}
    sources |= {name: _described(settings, name, entry) for name, entry in file.providers.items()}
    return build_catalog(sources.values() or [_echo(settings, "echo")], file)


def make_openai(settings: Settings) -> OpenAIProvider:
    """Raises ConfigurationError without a key."""
    if settings.openai_api_key is None:
        raise ConfigurationError("OPENAI_API_KEY is not set, so there is no provider to ask.")
    return OpenAIProvider(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        timeout_s=settings.timeout_seconds,
    )


def _configured(settings: Settings) -> Iterator[Source]:
    """The providers that need no catalog; the first is asked when nobody says which model."""
    timeout_s = settings.timeout_seconds
    if settings.openai_api_key is not None:
        guarded = _guarded(settings, make_openai(settings))
        yield Source(guarded, "openai", default=settings.openai_model, listed=True)
    if settings.anthropic_api_key is not None or settings.anthropic_auth_token is not None:
        claude = AnthropicProvider(
            api_key=_plain(settings.anthropic_api_key),
            auth_token=_plain(settings.anthropic_auth_token),
            base_url=settings.anthropic_base_url,
            timeout_s=timeout_s,
        )
        guarded = _guarded(settings, claude)
        yield Source(guarded, "anthropic", default=settings.anthropic_model, listed=True)
    if settings.ollama_base_url is not None:
        local = OllamaProvider(base_url=settings.ollama_base_url, timeout_s=timeout_s)
        yield Source(_guarded(settings, local), price=FREE, default=settings.ollama_model)


def _described(settings: Settings, name: str, entry: ProviderEntry) -> Source:
    """A provider of the operator's catalog. Raises ConfigurationError when its key is not there."""
    key = read_variable(entry.api_key_env) if entry.api_key_env is not None else None
    if entry.api_key_env is not None and key is None:
        raise ConfigurationError(f"The catalog is not valid. providers.{name}.api_key_env: that variable is not set.")
    timeout_s = settings.timeout_seconds
    match entry.kind:
        case "openai":
            return _described_openai(settings, name, entry, _plain(key) or NO_KEY)
        case "anthropic":
            base_url = entry.base_url or anthropic.OFFICIAL_URL
            claude = AnthropicProvider(api_key=_plain(key) or NO_KEY, base_url=base_url, timeout_s=timeout_s, name=name)
            official = _is_at(anthropic.OFFICIAL_URL, base_url)
            return Source(_guarded(settings, claude), "anthropic" if official else None)
        case "ollama":
            base_url = entry.base_url or ollama.USUAL_URL
            local = OllamaProvider(base_url=base_url, timeout_s=timeout_s, api_key=_plain(key), name=name)
            return Source(_guarded(settings, local), price=FREE)
        case "echo":
            return _echo(settings, name)


def _described_openai(settings: Settings, name: str, entry: ProviderEntry, api_key: str) -> Source:
    """Whoever speaks OpenAI's wires. Of others than OpenAI, only those are expected that all of them speak."""
    base_url = entry.base_url or f"{openai.OFFICIAL_HOST}/v1"
    official = _is_at(openai.OFFICIAL_HOST, base_url)
    wires = frozenset(map(Wire, entry.wires or (openai.ALL_WIRES if official else COMMON_WIRES)))
    wire = Wire(entry.wire) if entry.wire else Wire.RESPONSES if Wire.CHAT not in wires else Wire.CHAT
    provider = OpenAIProvider(
        api_key=api_key,
        base_url=base_url,
        timeout_s=settings.timeout_seconds,
        name=name,
        wires=wires | {wire},
        wire=wire,
    )
    return Source(_guarded(settings, provider), "openai" if official else None)


def _echo(settings: Settings, name: str) -> Source:
    echo = EchoProvider(
        tokens=settings.echo_tokens,
        delay_s=settings.echo_delay_seconds,
        tokens_per_second=settings.echo_tokens_per_second,
        failure=settings.echo_failure,
        name=name,
    )
    return Source(echo, price=FREE, default=name, only_default=True)


def _guarded(settings: Settings, provider: Provider) -> Provider:
    """Behind a circuit breaker, unless that is turned off."""
    if settings.breaker_failures == 0:
        return provider
    return CircuitBreaker(
        provider,
        failures=settings.breaker_failures,
        seconds=settings.breaker_seconds,
        patience_s=settings.timeout_seconds,
    )


def _is_at(origin: str, url: str) -> bool:
    return f"{url}/".startswith(f"{origin}/")


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


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

    return create_app(services, throttle, AccessLog(settings.log_level), settings.trusted_proxies, settings.origins)


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
    keeper = Maintenance(ledger, lease_seconds=settings.lease_seconds, sweep_seconds=settings.sweep_seconds)
    passwords = Passwords(settings.bcrypt_rounds)
    previous = settings.previous_signing_secret
    tokens = Tokens(
        signing_secret(settings).get_secret_value(),
        previous=check_secret(previous).get_secret_value() if previous else None,
        minutes=settings.access_token_minutes,
        clock=SystemClock(),
    )
    credentials = Authenticator(tokens, ApiKeys(database, SystemClock()), SystemClock())
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
        gateway = Gateway(ledger, parts.catalog, deadlines, default_output=settings.max_tokens)
        conversations = Conversations(database, settings.conversation_tokens)
        yield Services(settings, database, passwords, tokens, credentials, throttle, ledger, gateway, conversations)
    finally:
        await keeper.stop()
        await ledger.stop()
        await parts.catalog.close()
        passwords.close()
        await database.close()
