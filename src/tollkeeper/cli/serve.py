"""`tollkeeper serve`: its options. `cli.serving` starts the server."""

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on. Default: TOLLKEEPER_HOST or 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port to listen on. Default: TOLLKEEPER_PORT or 8000.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Worker processes on this port. Default: TOLLKEEPER_WORKERS or 1."),
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Restart when the code changes; for development.")] = False,
    first_run: Annotated[
        bool,
        typer.Option(
            "--first-run",
            help="Create what is missing: the database, and in an empty one an operator, a tenant and a member."
            " Print how to log in.",
        ),
    ] = False,
) -> None:
    """Serve the API."""
    from tollkeeper.cli.serving import start  # the server takes long to load, and --help needs none of it

    given = (("host", host), ("port", port), ("workers", workers))
    options = {name: value for name, value in given if value is not None}
    start(options, reload=reload, first_run=first_run)
