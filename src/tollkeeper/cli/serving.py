"""`tollkeeper serve` and what belongs to it: the schema, the first start, the port."""

import asyncio
import errno
import os
import signal
import socket
from typing import Annotated

import typer
import uvicorn

from tollkeeper.api.middleware import MAX_BODY_BYTES
from tollkeeper.bootstrap import Parts, make_app, make_catalog, make_openai, make_parts
from tollkeeper.cli import tables
from tollkeeper.cli.closing import TurnsEndFirst
from tollkeeper.cli.first_run import prepare, show_credentials
from tollkeeper.db import Database
from tollkeeper.errors import ConfigurationError
from tollkeeper.identity.signing_secret import signing_secret
from tollkeeper.providers.catalog import Catalog
from tollkeeper.settings import Settings, load_settings

MODEL_COLUMNS = ("model", "provider", "also named")
GRACE_S = 30
KEEP_ALIVE_S = 75
"""Longer than what clients and load balancers keep an idle connection for, so that they close it, not we under them."""


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(migrate)
    app.command()(models)


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. [default: TOLLKEEPER_HOST, 127.0.0.1]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: TOLLKEEPER_PORT, 8000]")] = None,
    reload: Annotated[bool, typer.Option(help="Start again whenever the code changes; for development.")] = False,
    first_run: Annotated[
        bool,
        typer.Option(help="In an empty database, create an operator, a tenant and a member, and show how to log in."),
    ] = False,
) -> None:
    """Serve the API."""
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = load_settings(**given)
    signing_secret(settings)
    parts = make_parts(settings)
    listening = _listen(settings)
    credentials = asyncio.run(_check(settings, first_run=first_run))
    url = f"http://{_place(settings)}"
    typer.echo(f"Tollkeeper listens on {url} (interactive docs at /docs).")
    typer.echo(_who_answers(parts.catalog))
    if credentials is not None:
        show_credentials(credentials, url)
    _run(settings, parts, listening, reload=reload)


def migrate() -> None:
    """Bring the database schema up to this version."""
    from tollkeeper.migrations import migrate as run  # alembic is not for the serving process

    settings = load_settings()
    run(settings.database_url)
    typer.echo("The database schema is up to date.")


def models(
    ask: Annotated[bool, typer.Option("--ask", help="Ask OpenAI which of its models the key may use.")] = False,
) -> None:
    """List the models of all providers, the default first. Nobody is asked for them, unless with --ask."""
    settings = load_settings()
    if ask:
        rows = [(name, "openai", "") for name in asyncio.run(make_openai(settings).list_models())]
    else:
        listing = make_catalog(settings).listing()
        rows = [(one.model.name, one.model.provider.name, ", ".join(one.aliases)) for one in listing]
    tables.show(MODEL_COLUMNS, rows)


async def _check(settings: Settings, *, first_run: bool) -> dict[str, str] | None:
    """Refuse to start on a schema that is not ours; on a first run, fill the empty database."""
    database = Database(settings.database_url)
    try:
        await database.require_current_schema()
        return await prepare(settings, database) if first_run else None
    finally:
        await database.close()


def _who_answers(catalog: Catalog) -> str:
    if catalog.providers == ("echo",):
        return "No provider is configured, so the echo provider answers, offline, one word a token."
    default = catalog.model(None)
    return f"Models of {', '.join(catalog.providers)} answer, by default {default.name} of {default.provider.name}."


def _place(settings: Settings) -> str:
    """Host and port as a URL has them: an IPv6 address is in brackets."""
    return f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"


def _listen(settings: Settings) -> socket.socket:
    """A bound socket. Raises ConfigurationError when the port is taken or the address is not ours."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"Port {settings.port} is taken. Choose another, for example: make run PORT={settings.port + 1}"
            ) from None
        raise ConfigurationError(f"Cannot listen on {_place(settings)}: {error.strerror or error}.") from None
    return listening


def _run(settings: Settings, parts: Parts, listening: socket.socket, *, reload: bool) -> None:
    """Serve until a signal; then drain and return."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn raises it again after its own clean stop
    common = {
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "proxy_headers": False,  # the application reads them itself, where they matter
        "timeout_graceful_shutdown": GRACE_S,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "ws": TurnsEndFirst,
        "ws_max_size": MAX_BODY_BYTES,
    }
    if reload:
        os.environ |= {"TOLLKEEPER_HOST": settings.host, "TOLLKEEPER_PORT": str(settings.port)}
        listening.close()
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
    server = uvicorn.Server(uvicorn.Config(make_app(settings, parts), **common))  # type: ignore[arg-type]
    server.run(sockets=[listening])
