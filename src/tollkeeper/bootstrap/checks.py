"""The checks of `tollkeeper doctor` and of GET /admin/doctor. Each returns what it found, or raises what is wrong.

A check that reads files runs in a thread: so none delays a server.
"""

import asyncio
import os
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from tollkeeper.administration.doctor import CheckState, Finding
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
CHECK_TIMEOUT_S = 10.0


class _Warn(Exception):
    """Something works, and should be changed: what is wrong, and what to do."""

    def __init__(self, detail: str, advice: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.advice = advice


class _Fail(_Warn):
    """Something does not work."""


async def run_checks(settings: Settings, *, ask: bool = False) -> AsyncIterator[Finding]:
    """Run every check. A check that needs the result of one that failed is left out. `ask`: also call the providers."""
    yield await _check_thread("settings", partial(_settings, settings))
    yield await _check_thread("signing secret", partial(_signing_secret, settings))
    if settings.metrics_token is not None:
        yield await _check_thread("metrics token", partial(_metrics_token, settings.metrics_token))
    yield await _check("limits", lambda: _limits(settings))
    async for finding in _database_checks(settings):
        yield finding
    for name, folder in _folders(settings).items():
        yield await _check_thread(name, partial(_disk, folder))
    yield await _check_thread("files", partial(_files, settings))
    try:
        catalog = make_catalog(settings)
    except ConfigurationError as error:
        yield Finding("providers", CheckState.FAILED, error.detail)
        return
    try:
        yield await _check_thread("providers", partial(_providers, catalog))
        if ask:
            for model in _one_model_of_each_provider(catalog):
                yield await _check(f"ask {model.provider.name}", partial(_ask, model), within_s=ASK_TIMEOUT_S)
    finally:
        await catalog.close()


async def _database_checks(settings: Settings) -> AsyncIterator[Finding]:
    """They have connections of their own, so that they find what a new process would."""
    database = Database(settings.database_url, prepared_statements=settings.prepared_statements)
    try:
        reachable = await _check("database", lambda: _schema(settings, database))
        yield reachable
        if reachable.state is CheckState.FAILED:
            return
        yield await _check("writable", lambda: _writable(database))
        yield await _check("row security", lambda: _row_security(settings, database))
        if settings.sqlite_path is None:
            yield await _check("pooler", lambda: _pooler(settings, database))
        yield await _check("data key", lambda: _data_key(settings, database))
        yield await _check("clock", lambda: _clock(database))
    finally:
        await database.close()


async def _check_thread(name: str, run: Callable[[], str]) -> Finding:
    return await _check(name, partial(asyncio.to_thread, run))


async def _check(name: str, run: Callable[[], Awaitable[str]], within_s: float = CHECK_TIMEOUT_S) -> Finding:
    try:
        async with asyncio.timeout(within_s):
            return Finding(name, CheckState.OK, await run())
    except _Fail as failure:
        return Finding(name, CheckState.FAILED, failure.detail, failure.advice)
    except _Warn as warning:
        return Finding(name, CheckState.WARNING, warning.detail, warning.advice)
    except TollkeeperError as error:
        return Finding(name, CheckState.FAILED, error.detail)
    except DBAPIError as error:
        detail = f"The database refuses the query: {reason_of(error)}."
        return Finding(name, CheckState.FAILED, detail, "Check the rights of the database's user, and its log.")
    except TimeoutError:
        detail = f"There was no answer within {within_s:.0f} s."
        return Finding(name, CheckState.FAILED, detail, "Check whether what it waits for is up, and how busy it is.")
    except OSError as error:
        return Finding(name, CheckState.FAILED, f"{error.filename or 'A file'}: {error.strerror}.")


def _settings(settings: Settings) -> str:
    if warnings := setting_warnings(settings):
        raise _Warn(" ".join(warnings))
    if not settings.serves_loopback_only and settings.public_url is None:
        raise _Warn(
            "TOLLKEEPER_PUBLIC_URL is not set, so links in invitations name the listening address.",
            "Set it to the URL at which people reach the server.",
        )
    return "every TOLLKEEPER_ variable is known, and has a valid value"


def _signing_secret(settings: Settings) -> str:
    if SIGNING_SECRET.will_be_created(settings, settings.signing_secret):
        return "the server creates it at its first start"
    SIGNING_SECRET.load(settings, settings.signing_secret)
    return "it has at least 32 bytes"


def _metrics_token(token: SecretStr) -> str:
    if len(token.get_secret_value()) < MIN_TOKEN_LENGTH:
        raise _Warn("TOLLKEEPER_METRICS_TOKEN is short, and can be guessed.", "Make one with: openssl rand -hex 32")
    return f"it has at least {MIN_TOKEN_LENGTH} characters"


async def _limits(settings: Settings) -> str:
    """Whether the workers count requests together."""
    from tollkeeper.bootstrap.workers import require_workers  # it loads the server

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
        raise _Fail(
            "The Redis of TOLLKEEPER_LIMITS_STORE refuses the login: each process counts requests for itself.",
            "Check user and password in the URL (redis://USER:PASSWORD@HOST:6379/0).",
        ) from None
    except (RedisError, OSError) as error:
        raise _Warn(
            f"The Redis of TOLLKEEPER_LIMITS_STORE does not answer ({type(error).__name__}): each process counts"
            " requests for itself until it does.",
            "Check the host in the URL, and whether Redis is up.",
        ) from None
    finally:
        await client.aclose()
    return "Redis answers, and all processes count requests together"


async def _schema(settings: Settings, database: Database) -> str:
    if settings.sqlite_path is not None and not await asyncio.to_thread(settings.sqlite_path.is_file):
        raise _Fail(f"No database at {settings.sqlite_path}.", "Create it with: tollkeeper migrate")
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
            "A connection pooler is in front of the database, and statements are prepared.",
            "Unless the pooler keeps them in transaction mode, set TOLLKEEPER_PREPARED_STATEMENTS=False.",
        )
    return "a connection pooler is in front of the database, and statements are not prepared"


async def _data_key(settings: Settings, database: Database) -> str:
    if DATA_KEY.will_be_created(settings, settings.data_key):
        return "the server creates it at its first start"
    keys = DataKeys(DATA_KEY.load(settings, settings.data_key), previous=settings.previous_data_key)
    await keys.load(database, SystemClock())
    if settings.previous_data_key is not None:
        raise _Warn(
            "TOLLKEEPER_PREVIOUS_DATA_KEY is set, and a change of keys is over.",
            "Remove it once every server was restarted with the new key.",
        )
    return "it opens what is stored"


async def _clock(database: Database) -> str:
    """The clock of this machine against the database's."""
    skew_s = await read_skew_s(database)
    if abs(skew_s) > MAX_SKEW_S:
        raise _Fail(f"The database's clock is {skew_s:+.1f} s off this machine's.", "Synchronize both (NTP).")
    return f"the database's clock is {round(skew_s * 1000):+d} ms off this machine's"


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


def _disk(folder: Path) -> str:
    while not folder.exists():  # before the first start
        folder = folder.parent
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    advice = "Free space on this disk, or use a larger one."
    if free < MIN_FREE_BYTES:
        raise _Fail(f"{free // 2**20} MB are free in {folder}: the ledger refuses calls below 32 MB.", advice)
    if free < LOW_SPACE_BYTES:
        raise _Warn(f"Only {free // 2**20} MB are free in {folder}.", advice)
    return f"{free // 2**30} GB are free in {folder}"


def _files(settings: Settings) -> str:
    """The files with secrets must be readable by their owner only."""
    secret_files = [Path(ENV_FILE)]
    if (path := settings.sqlite_path) is not None:
        folder = path.parent
        secret_files += [path, folder / SIGNING_SECRET.file_name, folder / DATA_KEY.file_name]
    open_files = [str(file) for file in secret_files if file.is_file() and not is_private(file)]
    if open_files:
        raise _Fail(f"Others can read {', '.join(open_files)}.", f"Run: chmod 600 {shlex.join(open_files)}")
    return "files with secrets are readable by their owner only"


def _providers(catalog: Catalog) -> str:
    default = catalog.model(None)
    if catalog.provider_names == ("echo",):
        what = "No provider is configured: the offline echo provider answers."
        raise _Warn(what, "Set the API key of a provider, or TOLLKEEPER_CATALOG.")
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
