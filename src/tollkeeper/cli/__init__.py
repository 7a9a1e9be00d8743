"""The `tollkeeper` command: a surface, like the API."""

import sys

import typer

from tollkeeper.cli import serving
from tollkeeper.errors import TollkeeperError

app = typer.Typer(
    name="tollkeeper",
    help="A secured multi-tenant AI API whose token quotas are exact.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
serving.register(app)

FAILED = 2


def main() -> None:
    """Run a command. What the domain refuses is one sentence on standard error and exit code 2."""
    try:
        app()
    except TollkeeperError as error:
        typer.echo(f"tollkeeper: {error.detail}", err=True)
        sys.exit(FAILED)
