"""What `tollkeeper model` and `tollkeeper provider` have in common: switch one off for all tenants, and on again."""

import asyncio
from typing import Annotated

import typer

from tollkeeper.administration import switches
from tollkeeper.bootstrap.catalog import make_catalog
from tollkeeper.cli.arguments import parse_name, parse_reason
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, iso_time, print_json, print_line
from tollkeeper.configuration.models import SwitchedOff
from tollkeeper.configuration.switches import Switchable

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The name, as listed.")]
Reason = Annotated[
    str, typer.Option(metavar="TEXT", show_default=False, help="Why: for the audit log. Callers do not see it.")
]


def add_switches(app: typer.Typer, kind: Switchable) -> None:
    """Add the commands `off` and `on`."""

    @app.command()
    def off(name: Name, reason: Reason, as_json: AsJson = False) -> None:
        """Switch it off for all tenants, within about a second. Calls in flight go on."""
        parsed_reason = parse_reason(reason)

        async def act() -> str:
            async with open_administration() as administration:
                catalog = make_catalog(administration.context.settings)
                return await switches.switch_off(administration.admin, catalog, kind, parse_name(name), parsed_reason)

        _print(kind, asyncio.run(act()), on=False, as_json=as_json)

    @app.command()
    def on(name: Name, as_json: AsJson = False) -> None:
        """Switch it on again."""

        async def act() -> str:
            async with open_administration() as administration:
                catalog = make_catalog(administration.context.settings)
                return await switches.switch_on(administration.admin, catalog, kind, parse_name(name))

        _print(kind, asyncio.run(act()), on=True, as_json=as_json)


def off_record(off: SwitchedOff | None) -> dict[str, str | None] | None:
    """Why and since when it is off, as a JSON object; None if it is on."""
    return {"reason": off.reason, "since": iso_time(off.created_ms)} if off is not None else None


def _print(kind: Switchable, name: str, *, on: bool, as_json: bool) -> None:
    if as_json:
        print_json({kind.value: name, "on": on})
    else:
        print_line(f"The {kind} {name} is switched {'on' if on else 'off'}.")
