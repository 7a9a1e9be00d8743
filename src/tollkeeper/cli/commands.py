"""The root of the `tollkeeper` command: names every command and group of commands, and the module that defines it."""

from typing import Annotated

import typer

from tollkeeper import __version__
from tollkeeper.cli.lazy_group import LazyCommand, LazyGroup
from tollkeeper.cli.output import print_line


class _Commands(LazyGroup):
    lazy_commands = (
        LazyCommand("serve", "tollkeeper.cli.serve", "Serve the API."),
        LazyCommand("worker", "tollkeeper.cli.worker", "Run background jobs, without serving requests."),
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
        LazyCommand(
            "moderation",
            "tollkeeper.cli.moderation",
            "Show, set and remove a tenant's moderation policy, and count what its rules have found.",
        ),
        LazyCommand("scores", "tollkeeper.cli.scores", "Show the scores of a tenant's answers, and set its judge."),
        LazyCommand("tenant", "tollkeeper.cli.tenants", "Create, list, disable and enable tenants."),
        LazyCommand("plan", "tollkeeper.cli.plans", "List, show, set and delete plans, and put tenants on them."),
        LazyCommand(
            "user",
            "tollkeeper.cli.users",
            "Create, invite, import, list, disable, enable and erase users; set a new password.",
        ),
        LazyCommand(
            "group", "tollkeeper.cli.groups", "Create, list and close groups of users; add and remove members."
        ),
        LazyCommand("tag", "tollkeeper.cli.tags", "Declare, list, change and close tags of calls."),
        LazyCommand("key", "tollkeeper.cli.keys", "Create, list, change and revoke a user's API keys."),
        LazyCommand("sso", "tollkeeper.cli.single_sign_on", "Set up single sign-on: providers, domains, identities."),
        LazyCommand(
            "webhook",
            "tollkeeper.cli.webhooks",
            "Register, list, change, test and delete a tenant's webhooks; show and replay deliveries.",
        ),
        LazyCommand("quota", "tollkeeper.cli.quotas", "Show and change quotas; refund and explain charges."),
        LazyCommand(
            "usage",
            "tollkeeper.cli.usage",
            "Show what was spent, by the time of the calls: of a tenant, a user, or all tenants.",
        ),
        LazyCommand(
            "statement",
            "tollkeeper.cli.statement",
            "Print the statement of a tenant's month: as it was closed; until then, as it is now.",
        ),
        LazyCommand(
            "alert",
            "tollkeeper.cli.alerts",
            "Set at which shares of quotas alerts fire, and list those that have fired.",
        ),
        LazyCommand(
            "doctor", "tollkeeper.cli.doctor", "Check settings, secrets, database, clock, disk, files and providers."
        ),
        LazyCommand(
            "ledger",
            "tollkeeper.cli.ledger",
            "Verify the ledger; recover what a restored one has lost; compare it with a provider's export.",
        ),
        LazyCommand("archive", "tollkeeper.cli.archive", "Move old months of the ledger to files."),
        LazyCommand("backup", "tollkeeper.cli.backup", "Copy the SQLite database while servers use it."),
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
