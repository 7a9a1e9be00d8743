"""Starts the server for `tollkeeper serve`, in this process or, with --reload, in another one."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import uvicorn

from tollkeeper.api.console import read_bundle
from tollkeeper.api.middleware import MAX_BODY_BYTES
from tollkeeper.bootstrap.application import make_app
from tollkeeper.bootstrap.backends import Backends, make_backends
from tollkeeper.bootstrap.reload import EarlyHangUp
from tollkeeper.bootstrap.workers import OneOfSeveral, require_workers
from tollkeeper.cli.command_settings import load_command_settings, require_sqlite_file
from tollkeeper.cli.first_run import populate, print_example_calls, print_first_steps, print_how_to_get_in
from tollkeeper.cli.migrate import migrate_database
from tollkeeper.cli.output import print_line
from tollkeeper.cli.serving_workers import become_worker
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database, SchemaMissing
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import ConfigurationError
from tollkeeper.identity import accounts
from tollkeeper.installation_secret import DATA_KEY, SIGNING_SECRET
from tollkeeper.private_files import secure_sqlite_files
from tollkeeper.providers.catalog import Catalog
from tollkeeper.server.draining import DrainingServer
from tollkeeper.server.http_protocol import bounded_protocol
from tollkeeper.server.limits import Connections, EdgeLimits
from tollkeeper.server.websocket_protocol import bounded_websocket_protocol
from tollkeeper.settings import Settings
from tollkeeper.telemetry.logging import log_uncaught_exceptions
from tollkeeper.workers.listeners import authority, bind, bind_for_workers, local_authority
from tollkeeper.workers.server import WorkerServer
from tollkeeper.workers.supervisor import Worker


def start(options: Mapping[str, object], *, reload: bool, first_run: bool) -> None:
    """Serve until SIGINT or SIGTERM. `options` are settings that take precedence over the environment.

    With `first_run`, create what is missing: see `tollkeeper serve --help`. Raises ConfigurationError.
    """
    settings = load_command_settings(**options)
    if settings.workers > 1:
        require_workers(settings, reload=reload)
    backends = make_backends(settings)
    _require_schema(settings, create=first_run)
    SIGNING_SECRET.load(settings, settings.signing_secret)
    with _bind(settings) as listeners:  # before the first passwords are made, which are shown once
        passwords, has_users = asyncio.run(_check_database(settings, first_run=first_run))
        url = f"http://{local_authority(settings.host, settings.port)}"
        address = f"http://{authority(settings.host, settings.port)}"
        print_line(f"Tollkeeper listens on {address} (interactive docs at {url}/docs).")
        if not reload:
            print_line(f"Process {os.getpid()}: SIGHUP reads the catalog and the log level again, SIGTERM stops.")
        print_line(_describe_console(url))
        print_line(_describe_providers(backends.catalog))
        if passwords is not None:
            print_example_calls(passwords, settings, url)
        elif has_users:
            print_how_to_get_in()
        else:
            print_first_steps()
        _run(settings, backends, listeners, reload=reload)


def _require_schema(settings: Settings, *, create: bool) -> None:
    """Create the tables of a database that has none, if `create`. Raises ConfigurationError, SchemaMissing."""
    if not create:
        require_sqlite_file(settings)
    elif settings.sqlite_path is not None and not settings.sqlite_path.exists():
        migrate_database(settings)
    try:
        asyncio.run(_check_schema(settings))
    except SchemaMissing:
        if not create:
            raise
        migrate_database(settings)


async def _check_schema(settings: Settings) -> None:
    """Raises ConfigurationError for another schema, SchemaMissing for none.

    The files of an SQLite database become readable by their owner only.
    """
    if settings.sqlite_path is not None:
        secure_sqlite_files(settings.sqlite_path)
    database = Database(settings.database_url, prepared_statements=settings.prepared_statements)
    try:
        await database.require_current_schema()
    finally:
        await database.close()


async def _check_database(settings: Settings, *, first_run: bool) -> tuple[dict[str, str] | None, bool]:
    """Check that the database can be written to, and the data key is its own; on a first run, fill an empty one.

    Returns e-mail address → password of the accounts that were created, if any, and whether there are users. Raises
    ConfigurationError.
    """
    database = Database(settings.database_url, prepared_statements=settings.prepared_statements)
    try:
        await database.require_writable()
        data_key = DATA_KEY.load(settings, settings.data_key)
        await DataKeys(data_key, previous=settings.previous_data_key).load(database, SystemClock())
        if first_run and (passwords := await populate(settings, database)) is not None:
            return passwords, True
        async with database.session() as session:
            return None, await accounts.has_users(session)
    finally:
        await database.close()


def _describe_console(url: str) -> str:
    if read_bundle() is None:
        return "The console was not built: see docs/guides/console.md."
    return f"The console, for a browser: {url}/console"


def _describe_providers(catalog: Catalog) -> str:
    if catalog.provider_names == ("echo",):
        return "No provider is configured. The offline echo provider answers, with one word per token."
    default = catalog.model(None)
    if len(catalog.provider_names) == 1:
        return f"Provider: {default.provider.name}. Default model: {default.name}."
    names = ", ".join(catalog.provider_names)
    return f"Providers: {names}. Default model: {default.name} ({default.provider.name})."


@contextmanager
def _bind(settings: Settings) -> Iterator[list[socket.socket]]:
    """A bound socket for each worker. Raises ConfigurationError when the port is in use or the address is not local."""
    if settings.workers == 1:
        listeners = [bind(settings.host, settings.port)]
    else:
        listeners = bind_for_workers(settings.host, settings.port, settings.workers)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def _run(settings: Settings, backends: Backends, listeners: list[socket.socket], *, reload: bool) -> None:
    """Serve until SIGINT or SIGTERM. Then drain and return."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after its own shutdown
    signal.signal(signal.SIGHUP, EarlyHangUp())
    if reload:
        (listener,) = listeners
        listener.close()
        _run_reloading(settings)
    elif settings.workers == 1:
        _serve(settings, backends, listeners[0])
    else:
        worker, one = become_worker(settings, listeners, backends.catalog)
        if worker.reloads:
            signal.raise_signal(signal.SIGHUP)  # to itself, before it serves
        _serve(settings, backends, worker.listener, (worker, one))


def _run_reloading(settings: Settings) -> None:
    os.environ |= {"TOLLKEEPER_HOST": settings.host, "TOLLKEEPER_PORT": str(settings.port)}
    uvicorn.run(
        "tollkeeper.bootstrap.application:make_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        reload=True,
        reload_dirs=["src"],
        **_server_options(settings),  # type: ignore[arg-type]
    )


def _serve(
    settings: Settings, backends: Backends, listener: socket.socket, worker: tuple[Worker, OneOfSeveral] | None = None
) -> None:
    """Serve in this process. Raises ConfigurationError for charges that were not booked, and for a lost database."""
    limits = _edge_limits(settings)
    connections = Connections(limits)
    http, websocket = bounded_protocol(limits, connections), bounded_websocket_protocol(limits, connections)
    app = make_app(settings, backends, connections, worker[1] if worker is not None else None)
    log_uncaught_exceptions()
    config = uvicorn.Config(app, http=http, ws=websocket, **_server_options(settings))  # type: ignore[arg-type]
    stops = connections, settings.drain_seconds
    server = DrainingServer(config, *stops) if worker is None else WorkerServer(config, *stops, worker[0])
    server.run(sockets=[listener])
    raise_for_losses(backends)


def raise_for_losses(backends: Backends) -> None:
    """After a stop: raise ConfigurationError for charges that were not booked, and for a lost database."""
    if backends.spill.lost:
        raise ConfigurationError(
            f"Charges that were not booked: {backends.spill.lost}. The database did not respond, and the folder"
            f" {backends.spill.folder} (TOLLKEEPER_SPILL) cannot be written to."
        )
    if backends.store.lost_reason is not None:
        raise ConfigurationError(
            f"{backends.store.lost_reason} Calls since then were refused. Restore it, and restart."
        )


def _server_options(settings: Settings) -> dict[str, object]:
    return {
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "proxy_headers": False,  # the application reads them, only from trusted proxies
        "timeout_graceful_shutdown": settings.grace_seconds,
        "ws_max_size": MAX_BODY_BYTES,
    }


def _edge_limits(settings: Settings) -> EdgeLimits:
    return EdgeLimits(
        max_head_bytes=settings.max_head_bytes,
        max_head_fields=settings.max_head_fields,
        head_s=settings.head_seconds,
        idle_s=settings.idle_seconds,
        max_connections=settings.max_connections,
        max_connections_per_address=settings.max_connections_per_address,
        trusted_proxies=settings.trusted_proxies,
        socket_frames_per_s=settings.socket_frames_per_second,
        socket_frames_burst=20 * settings.socket_frames_per_second,
    )
