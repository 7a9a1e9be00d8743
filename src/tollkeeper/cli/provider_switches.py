"""`tollkeeper provider`: list the providers with their state, switch one off, and on again."""

import asyncio

import typer

from tollkeeper.administration import switches
from tollkeeper.administration.switches import ProviderState
from tollkeeper.bootstrap.catalog import make_catalog
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, print_json, print_table
from tollkeeper.cli.switches import add_switches, off_record
from tollkeeper.configuration.switches import Switchable

app = typer.Typer(
    name="provider",
    help="List the providers with their state; switch one off, and on again.",
    no_args_is_help=True,
    add_completion=False,
)
add_switches(app, Switchable.PROVIDER)


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List all providers, also those that are off, by name."""

    async def read() -> list[ProviderState]:
        async with open_administration() as administration:
            return await switches.list_providers(administration.admin, make_catalog(administration.context.settings))

    states = asyncio.run(read())
    if as_json:
        print_json(
            [
                {
                    "provider": state.name,
                    "on": state.off is None,
                    "switched_off": off_record(state.off),
                    "tenant_keys": state.takes_keys,
                }
                for state in states
            ]
        )
        return
    rows = [(state.name, "on", "") if state.off is None else (state.name, "off", state.off.reason) for state in states]
    print_table(("provider", "state", "reason"), rows)
