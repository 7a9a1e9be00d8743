"""`tollkeeper model`: list the models with their state, switch one off, and on again."""

import asyncio

import typer

from tollkeeper.administration import switches
from tollkeeper.administration.switches import ModelState
from tollkeeper.bootstrap.catalog import make_catalog
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, print_json, print_table
from tollkeeper.cli.switches import add_switches, off_record
from tollkeeper.configuration.switches import Switchable

app = typer.Typer(
    name="model",
    help="List the models with their state; switch one off, and on again.",
    no_args_is_help=True,
    add_completion=False,
)
add_switches(app, Switchable.MODEL)


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List all models, also those that are off, by name."""

    async def read() -> list[ModelState]:
        async with open_administration() as administration:
            return await switches.list_models(administration.admin, make_catalog(administration.context.settings))

    states = asyncio.run(read())
    if as_json:
        print_json(
            [
                {
                    "model": state.name,
                    "provider": state.model.provider.name if state.model is not None else None,
                    "on": state.can_be_called,
                    "switched_off": off_record(state.off),
                }
                for state in states
            ]
        )
        return
    rows = [
        (
            state.name,
            state.model.provider.name if state.model is not None else "",
            "on" if state.can_be_called else "off",
            state.off.reason if state.off is not None else "",
        )
        for state in states
    ]
    print_table(("model", "provider", "state", "reason"), rows)
