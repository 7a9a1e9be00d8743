"""The root of the `tollkeeper` command: registers every command and group of commands."""

from typing import Annotated

import typer

from tollkeeper import __version__
from tollkeeper.cli import keys, ledger, quotas, serving, tenants, user_import, users
from tollkeeper.cli.output import print_line

app = typer.Typer(
    name="tollkeeper",
    help="A secured multi-tenant AI API whose token quotas are exact.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        print_line(f"tollkeeper {__version__}")
        raise typer.Exit


@app.callback()
def tollkeeper(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


serving.register(app)
user_import.register(users.app)
app.add_typer(tenants.app, name="tenant", no_args_is_help=True)
app.add_typer(users.app, name="user", no_args_is_help=True)
app.add_typer(keys.app, name="key", no_args_is_help=True)
app.add_typer(quotas.app, name="quota", no_args_is_help=True)
app.add_typer(ledger.app, name="ledger", no_args_is_help=True)
