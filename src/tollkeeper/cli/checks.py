"""The checks of `tollkeeper doctor`. Each returns what it found, or raises what is wrong."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import text

from tollkeeper.bootstrap_catalog import make_catalog
from tollkeeper.chat import ChatRequest, Message
from tollkeeper.clock import SystemClock
from tollkeeper.db import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import ConfigurationError, TollkeeperError
from tollkeeper.installation_secret import DATA_KEY, SIGNING_SECRET, InstallationSecret
from tollkeeper.private_files import is_private
from tollkeeper.providers.base import CallInput, Model
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.stores.sqlite.disk import MIN_FREE_BYTES
from tollkeeper.settings import ENV_FILE, Settings, setting_warnings

MAX_CLOCK_SKEW_S = 2.0
"""A lease lasts a minute, and an access token a quarter of an hour: hosts must agree by far more than that."""
LOW_SPACE_BYTES = 1024 * 1024 * 1024
QUESTION = "Answer with one word: ready?"
ASK_OUTPUT_TOKENS = 64
ASK_TIMEOUT_S = 30.0
_DATABASE_TIME = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())::double precision",
}


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
    database = Database(settings.database_url)
    try:
        reachable = await _check("database", lambda: _schema(settings, database))
        yield reachable
        if reachable.state != "failed":
            yield await _check("writable", lambda: _writable(database))
            yield await _check("row security", lambda: _row_security(settings, database))
            yield await _check("data key", lambda: _data_key(settings, database))
            yield await _check("clock", lambda: _clock(settings, database))
    finally:
        await database.close()
    if settings.sqlite_path is not None:
        folder = settings.sqlite_path.parent
        yield await _check("disk", lambda: _disk(folder))
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


async def _settings(settings: Settings) -> str:
    if warnings := setting_warnings(settings):
        raise _Warn(" ".join(warnings))
    if not settings.serves_loopback_only and settings.public_url is None:
        raise _Warn("TOLLKEEPER_PUBLIC_URL is not set, so links in invitations name the listening address.")
    return "every TOLLKEEPER_ variable is known, and has a valid value"


async def _signing_secret(settings: Settings) -> str:
    if _is_created_later(settings, SIGNING_SECRET, settings.signing_secret):
        return "the server creates it at its first start"
    SIGNING_SECRET.load(settings, settings.signing_secret)
    return "it has at least 32 bytes"


def _is_created_later(settings: Settings, secret: InstallationSecret, value: SecretStr | None) -> bool:
    """Whether a secret is neither set nor in its file yet, and the server may create the file."""
    folder = settings.sqlite_path.parent if settings.sqlite_path is not None else None
    may_create = settings.serves_loopback_only or not secret.in_file_on_loopback_only
    return value is None and folder is not None and may_create and not (folder / secret.file_name).exists()


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


async def _data_key(settings: Settings, database: Database) -> str:
    if _is_created_later(settings, DATA_KEY, settings.data_key):
        return "the server creates it at its first start"
    keys = DataKeys(DATA_KEY.load(settings, settings.data_key), previous=settings.previous_data_key)
    await keys.load(database, SystemClock())
    if settings.previous_data_key is not None:
        raise _Warn("TOLLKEEPER_PREVIOUS_DATA_KEY can be removed once every server was restarted with the new key.")
    return "it opens what is stored"


async def _clock(settings: Settings, database: Database) -> str:
    """The clock of this machine against the database's."""
    query = _DATABASE_TIME["sqlite" if settings.sqlite_path is not None else "postgresql"]
    async with database.session() as session:
        before = time.time()
        found = float((await (await session.connection()).execute(text(query))).scalar_one())
        skew_s = found - (before + time.time()) / 2
    if abs(skew_s) > MAX_CLOCK_SKEW_S:
        raise ConfigurationError(f"The database's clock is {skew_s:+.1f} s off this machine's. Synchronize both (NTP).")
    return f"the database's clock is {skew_s * 1000:+.0f} ms off this machine's"


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
