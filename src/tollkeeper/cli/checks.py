"""The checks of `tollkeeper doctor`. Each returns what it found, or raises what is wrong."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from tollkeeper.bootstrap.catalog import make_catalog
from tollkeeper.chat import ChatRequest, Message
from tollkeeper.clock import SystemClock
from tollkeeper.database.clock import MAX_SKEW_S, read_skew_s
from tollkeeper.database.engine import Database, reason_of
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import ConfigurationError, TollkeeperError
from tollkeeper.installation_secret import DATA_KEY, SIGNING_SECRET
from tollkeeper.private_files import is_private
from tollkeeper.providers.base import CallInput, Model
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.stores.sqlite.disk import MIN_FREE_BYTES
from tollkeeper.settings import Settings
from tollkeeper.settings.extras import missing_package
from tollkeeper.settings.variables import ENV_FILE
from tollkeeper.settings.warnings import setting_warnings

MIN_TOKEN_LENGTH = 16
LOW_SPACE_BYTES = 1024 * 1024 * 1024
QUESTION = "Answer with one word: ready?"
ASK_OUTPUT_TOKENS = 64
ASK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `state` is "ok", "warning" or "failed"."""

    check: str
    state: str
    detail: str


class _Warn(Exception):
    """Something works, and should be changed."""


async def run_checks(settings: Settings, *, ask: bool) -> AsyncIterator[Finding]:
    """Run every check. A check that needs the result of one that failed is left out."""
    yield await _check("settings", lambda: _settings(settings))
    yield await _check("signing secret", lambda: _signing_secret(settings))
    if settings.metrics_token is not None:
        yield await _check("metrics token", partial(_metrics_token, settings.metrics_token))
    yield await _check("limits", lambda: _limits(settings))
    database = Database(settings.database_url, prepared_statements=settings.prepared_statements)
    try:
        reachable = await _check("database", lambda: _schema(settings, database))
        yield reachable
        if reachable.state != "failed":
            yield await _check("writable", lambda: _writable(database))
            yield await _check("row security", lambda: _row_security(settings, database))
            if settings.sqlite_path is None:
                yield await _check("pooler", lambda: _pooler(settings, database))
            yield await _check("data key", lambda: _data_key(settings, database))
            yield await _check("clock", lambda: _clock(database))
    finally:
        await database.close()
    for name, folder in _folders(settings).items():
        yield await _check(name, partial(_disk, folder))
    yield await _check("files", lambda: _files(settings))
    try:
        catalog = make_catalog(settings)
    except ConfigurationError as error:
        yield Finding("providers", "failed", error.detail)
        return
    yield await _check("providers", lambda: _providers(catalog))
    if ask:
        for model in _one_model_of_each_provider(catalog):
            yield await _check(f"ask {model.provider.name}", partial(_ask, model))
    await catalog.close()


async def _check(name: str, run: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(name, "ok", await run())
    except _Warn as warning:
        return Finding(name, "warning", str(warning))
    except TollkeeperError as error:
        return Finding(name, "failed", error.detail)
    except DBAPIError as error:
        return Finding(name, "failed", f"The database refuses the query: {reason_of(error)}.")
    except TimeoutError:
        return Finding(name, "failed", f"There was no answer within {ASK_TIMEOUT_S:.0f} s.")


async def _settings(settings: Settings) -> str:
    if warnings := setting_warnings(settings):
        raise _Warn(" ".join(warnings))
    if not settings.serves_loopback_only and settings.public_url is None:
        raise _Warn("TOLLKEEPER_PUBLIC_URL is not set, so links in invitations name the listening address.")
    return "every TOLLKEEPER_ variable is known, and has a valid value"


async def _signing_secret(settings: Settings) -> str:
    if SIGNING_SECRET.will_be_created(settings, settings.signing_secret):
        return "the server creates it at its first start"
    SIGNING_SECRET.load(settings, settings.signing_secret)
    return "it has at least 32 bytes"


async def _metrics_token(token: SecretStr) -> str:
    if len(token.get_secret_value()) < MIN_TOKEN_LENGTH:
        raise _Warn("TOLLKEEPER_METRICS_TOKEN is short, and can be guessed. Make one with: openssl rand -hex 32")
    return f"it has at least {MIN_TOKEN_LENGTH} characters"


async def _limits(settings: Settings) -> str:
    """Whether the workers count requests together."""
    from tollkeeper.cli.serving_workers import require_workers  # it loads the server

    if settings.workers > 1:
        require_workers(settings, reload=False)
    if settings.limits_store is None:
        return "each process counts requests for itself; several hosts need TOLLKEEPER_LIMITS_STORE"
    try:
        from redis.asyncio import Redis
        from redis.exceptions import AuthenticationError, RedisError
    except ModuleNotFoundError:
        raise missing_package("TOLLKEEPER_LIMITS_STORE", "redis") from None

    client = Redis.from_url(settings.limits_store.get_secret_value(), socket_timeout=5, socket_connect_timeout=5)
    try:
        await client.ping()
    except AuthenticationError:
        raise ConfigurationError(
            "The Redis of TOLLKEEPER_LIMITS_STORE refuses the login: check user and password in the URL"
            " (redis://USER:PASSWORD@HOST:6379/0). Until then each process counts requests for itself."
        ) from None
    except (RedisError, OSError) as error:
        raise _Warn(
            f"The Redis of TOLLKEEPER_LIMITS_STORE does not answer ({type(error).__name__}): each process counts"
            " requests for itself until it does."
        ) from None
    finally:
        await client.aclose()
    return "Redis answers, and all processes count requests together"


async def _schema(settings: Settings, database: Database) -> str:
    if settings.sqlite_path is not None and not settings.sqlite_path.is_file():
        raise ConfigurationError(f"No database at {settings.sqlite_path}. Create it with: tollkeeper migrate.")
    await database.require_current_schema()
    return f"it responds, and its schema is at {await database.revision()}"


async def _writable(database: Database) -> str:
    await database.require_writable()
    return "the database accepts writes"


async def _row_security(settings: Settings, database: Database) -> str:
    if settings.sqlite_path is not None:
        return "SQLite has none: the conditions of the queries separate the tenants"
    if (problem := await database.enable_row_security()) is not None:
        raise _Warn(f"It is not in use, the second wall between tenants. {problem}")
    return "requests see no rows of other tenants"


async def _pooler(settings: Settings, database: Database) -> str:
    if not await database.is_pooled():
        return "the database is reached without a connection pooler"
    if settings.prepared_statements:
        raise _Warn(
            "A connection pooler is in front of the database. Unless it keeps prepared statements in transaction mode,"
            " set TOLLKEEPER_PREPARED_STATEMENTS=False."
        )
    return "a connection pooler is in front of the database, and statements are not prepared"


async def _data_key(settings: Settings, database: Database) -> str:
    if DATA_KEY.will_be_created(settings, settings.data_key):
        return "the server creates it at its first start"
    keys = DataKeys(DATA_KEY.load(settings, settings.data_key), previous=settings.previous_data_key)
    await keys.load(database, SystemClock())
    if settings.previous_data_key is not None:
        raise _Warn("TOLLKEEPER_PREVIOUS_DATA_KEY can be removed once every server was restarted with the new key.")
    return "it opens what is stored"


async def _clock(database: Database) -> str:
    """The clock of this machine against the database's."""
    skew_s = await read_skew_s(database)
    if abs(skew_s) > MAX_SKEW_S:
        raise ConfigurationError(f"The database's clock is {skew_s:+.1f} s off this machine's. Synchronize both (NTP).")
    return f"the database's clock is {skew_s * 1000:+.0f} ms off this machine's"


def _folders(settings: Settings) -> dict[str, Path]:
    """Where the server writes, each once, by the name of the check."""
    folders = {
        "disk": settings.sqlite_path.parent if settings.sqlite_path is not None else settings.spill_folder,
        "disk of spill": settings.spill_folder,
        "disk of events": settings.events_file.absolute().parent if settings.events_file is not None else None,
    }
    once: dict[str, Path] = {}
    for name, folder in folders.items():
        if folder is not None and folder not in once.values():
            once[name] = folder
    return once


async def _disk(folder: Path) -> str:
    while not folder.exists():  # before the first start
        folder = folder.parent
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < MIN_FREE_BYTES:
        raise ConfigurationError(f"{free // 2**20} MB are free in {folder}: the ledger refuses calls below 32 MB.")
    if free < LOW_SPACE_BYTES:
        raise _Warn(f"Only {free // 2**20} MB are free in {folder}.")
    return f"{free // 2**30} GB are free in {folder}"


async def _files(settings: Settings) -> str:
    """The files with secrets must be readable by their owner only."""
    secret_files = [Path(ENV_FILE)]
    if (path := settings.sqlite_path) is not None:
        folder = path.parent
        secret_files += [path, folder / SIGNING_SECRET.file_name, folder / DATA_KEY.file_name]
    open_files = [str(file) for file in secret_files if file.is_file() and not is_private(file)]
    if open_files:
        raise ConfigurationError(f"Others can read {', '.join(open_files)}. Run: chmod 600 {' '.join(open_files)}")
    return "files with secrets are readable by their owner only"


async def _providers(catalog: Catalog) -> str:
    default = catalog.model(None)
    if catalog.provider_names == ("echo",):
        raise _Warn("No provider is configured: the offline echo provider answers.")
    return f"{', '.join(catalog.provider_names)}; the default model is {default.name} ({default.provider.name})"


def _one_model_of_each_provider(catalog: Catalog) -> list[Model]:
    models: dict[str, Model] = {}
    for item in catalog.listed_models():
        models.setdefault(item.model.provider.name, item.model)
    return list(models.values())


async def _ask(model: Model) -> str:
    """One small call, which the provider bills."""
    request = ChatRequest((Message("user", QUESTION),))
    started_at = time.perf_counter()
    async with asyncio.timeout(ASK_TIMEOUT_S):
        prepared = model.provider.prepare(model, CallInput(lambda: request))
        completion = await model.provider.complete(prepared, ASK_OUTPUT_TOKENS)
    seconds = time.perf_counter() - started_at
    usage = completion.usage
    tokens = f"{usage.input_tokens} + {usage.output_tokens} tokens" if usage is not None else "no usage reported"
    return f"{model.name} answered after {seconds:.1f} s ({tokens})"
