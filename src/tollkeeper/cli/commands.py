"""The root of the `tollkeeper` command: registers every command and group of commands."""

import typer

from tollkeeper.cli import keys, ledger, quotas, serving, tenants, users

app = typer.Typer(
    name="tollkeeper",
    help="A secured multi-tenant AI API whose token quotas are exact.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
serving.register(app)
app.add_typer(tenants.app, name="tenant", no_args_is_help=True)
app.add_typer(users.app, name="user", no_args_is_help=True)
app.add_typer(keys.app, name="key", no_args_is_help=True)
app.add_typer(quotas.app, name="quota", no_args_is_help=True)
app.add_typer(ledger.app, name="ledger", no_args_is_help=True)
