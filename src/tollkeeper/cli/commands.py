"""The root of the `tollkeeper` command: names every command and group of commands, and the module that defines it."""

from typing import Annotated

import typer

from tollkeeper import __version__
from tollkeeper.cli.lazy_group import LazyCommand, LazyGroup
from tollkeeper.cli.output import print_line


class _Commands(LazyGroup):
    lazy_commands = (
        LazyCommand("serve", "tollkeeper.cli.serve", "Serve the API."),
        LazyCommand(
            "migrate", "tollkeeper.cli.migrate", "Create the database's tables, or upgrade them to this version."
        ),
        LazyCommand(
            "models", "tollkeeper.cli.models", "List the models of the configured providers, the default first."
        ),
        LazyCommand(
            "model",
            "tollkeeper.cli.model_switches",
            "List the models with their state; switch one off, and on again.",
        ),
        LazyCommand(
            "provider",
            "tollkeeper.cli.provider_switches",
            "List the providers with their state; switch one off, and on again.",
        ),
        LazyCommand(
            "provider-key", "tollkeeper.cli.provider_keys", "List, set and delete a tenant's own keys for providers."
        ),
        LazyCommand("tenant", "tollkeeper.cli.tenants", "Create, list, disable and enable tenants."),
        LazyCommand(
            "user",
            "tollkeeper.cli.users",
            "Create, invite, import, list, disable, enable and erase users; set a new password.",
        ),
        LazyCommand("key", "tollkeeper.cli.keys", "Create, list, change and revoke a user's API keys."),
        LazyCommand("sso", "tollkeeper.cli.single_sign_on", "Set up single sign-on: providers, domains, identities."),
        LazyCommand("quota", "tollkeeper.cli.quotas", "Show and change quotas; refund and explain charges."),
        LazyCommand(
            "doctor", "tollkeeper.cli.doctor", "Check settings, secrets, database, clock, disk, files and providers."
        ),
        LazyCommand("ledger", "tollkeeper.cli.ledger", "Verify the ledger."),
        LazyCommand(
            "audit", "tollkeeper.cli.audit", "Show and verify the audit log of administrative acts and logins."
        ),
    )


app = typer.Typer(
    name="tollkeeper",
    cls=_Commands,
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
