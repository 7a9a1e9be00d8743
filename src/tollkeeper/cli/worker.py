"""`tollkeeper worker`: its options. `cli.working` runs it."""

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def worker(
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Jobs that run at a time. Default: TOLLKEEPER_JOBS_CONCURRENCY or 8.", show_default=False
        ),
    ] = None,
) -> None:
    """Run background jobs, without serving requests. SIGTERM ends it when the running jobs have ended."""
    from tollkeeper.cli.working import start  # it takes long to load, and --help needs none of it

    start({"jobs_concurrency": concurrency} if concurrency is not None else {})
