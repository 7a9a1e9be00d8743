"""Starts the server for `tollkeeper serve`, in this process or, with --reload, in another one."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Mapping

import uvicorn

from tollkeeper.api.middleware import MAX_BODY_BYTES
from tollkeeper.bootstrap import Backends, make_app, make_backends
from tollkeeper.cli.command_settings import load_command_settings, require_sqlite_file
from tollkeeper.cli.first_run import populate, print_example_calls, print_first_steps, print_how_to_get_in
from tollkeeper.cli.migrate import migrate_database
from tollkeeper.cli.output import print_line
from tollkeeper.clock import SystemClock
from tollkeeper.db import Database, SchemaMissing
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import ConfigurationError
from tollkeeper.identity import accounts
from tollkeeper.installation_secret import DATA_KEY, SIGNING_SECRET
from tollkeeper.private_files import secure_sqlite_files
from tollkeeper.providers.catalog import Catalog
from tollkeeper.server.http_protocol import bounded_protocol
from tollkeeper.server.limits import Connections, EdgeLimits
from tollkeeper.server.websocket_protocol import bounded_websocket_protocol
from tollkeeper.settings import Settings
from tollkeeper.telemetry.logging import log_uncaught_exceptions

GRACE_S = 30


def start(options: Mapping[str, object], *, reload: bool, first_run: bool) -> None:
    """Serve until SIGINT or SIGTERM. `options` are settings that take precedence over the environment.

    With `first_run`, create what is missing: see `tollkeeper serve --help`. Raises ConfigurationError.
    """
    settings = load_command_settings(**options)
    backends = make_backends(settings)
    _require_schema(settings, create=first_run)
    SIGNING_SECRET.load(settings, settings.signing_secret)
    with _bind(settings) as listener:  # before the first passwords are made, which are shown once
        passwords, has_users = asyncio.run(_check_database(settings, first_run=first_run))
        url = f"http://{_host_and_port(settings)}"
        print_line(f"Tollkeeper listens on {url} (interactive docs at {url}/docs).")
        print_line(_describe_providers(backends.catalog))
        if passwords is not None:
            print_example_calls(passwords, settings, url)
        elif has_users:
            print_how_to_get_in()
        else:
            print_first_steps()
        _run(settings, backends, listener, reload=reload)


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
    database = Database(settings.database_url)
    try:
        await database.require_current_schema()
    finally:
        await database.close()


async def _check_database(settings: Settings, *, first_run: bool) -> tuple[dict[str, str] | None, bool]:
    """Check that the database can be written to, and the data key is its own; on a first run, fill an empty one.

    Returns e-mail address → password of the accounts that were created, if any, and whether there are users. Raises
    ConfigurationError.
    """
    database = Database(settings.database_url)
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


def _describe_providers(catalog: Catalog) -> str:
    if catalog.provider_names == ("echo",):
        return "No provider is configured. The offline echo provider answers, with one word per token."
    default = catalog.model(None)
    if len(catalog.provider_names) == 1:
        return f"Provider: {default.provider.name}. Default model: {default.name}."
    names = ", ".join(catalog.provider_names)
    return f"Providers: {names}. Default model: {default.name} ({default.provider.name})."


def _host_and_port(settings: Settings) -> str:
    """Returns the authority of the URL, with an IPv6 address in brackets."""
    return f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"


def _bind(settings: Settings) -> socket.socket:
    """Returns a bound socket. Raises ConfigurationError when the port is in use or the address is not local."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"Port {settings.port} is in use. Choose another, for example with --port {settings.port + 1}, or:"
                f" make run PORT={settings.port + 1}"
            ) from None
        raise ConfigurationError(f"Cannot listen on {_host_and_port(settings)}: {error.strerror or error}.") from None
    return listener


def _run(settings: Settings, backends: Backends, listener: socket.socket, *, reload: bool) -> None:
    """Serve until SIGINT or SIGTERM. Then drain and return."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after its own shutdown
    common = {
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "proxy_headers": False,  # the application reads them, only from trusted proxies
        "timeout_graceful_shutdown": GRACE_S,
        "ws_max_size": MAX_BODY_BYTES,
    }
    if reload:
        os.environ |= {"TOLLKEEPER_HOST": settings.host, "TOLLKEEPER_PORT": str(settings.port)}
        listener.close()
        uvicorn.run(
            "tollkeeper.bootstrap:make_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            reload=True,
            reload_dirs=["src"],
            **common,  # type: ignore[arg-type]
        )
        return
    http, websocket = _protocols(settings)
    app = make_app(settings, backends)
    log_uncaught_exceptions()
    server = uvicorn.Server(uvicorn.Config(app, http=http, ws=websocket, **common))  # type: ignore[arg-type]
    server.run(sockets=[listener])
    if backends.spill.lost:
        raise ConfigurationError(
            f"{backends.spill.lost} charges were not booked: the database did not respond, and the folder"
            f" {backends.spill.folder} (TOLLKEEPER_SPILL) cannot be written to."
        )
    if backends.store.lost_reason is not None:
        raise ConfigurationError(
            f"{backends.store.lost_reason} Calls since then were refused. Restore it, and restart."
        )


def _protocols(settings: Settings) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """The HTTP and the WebSocket protocol, with the limits of the settings."""
    limits = EdgeLimits(
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
    return bounded_protocol(limits, Connections(limits)), bounded_websocket_protocol(limits)
