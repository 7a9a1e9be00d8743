"""`tollkeeper tenant`: create, list, disable and enable tenants."""

import asyncio
from typing import Annotated

import typer

from tollkeeper.administration import tenants
from tollkeeper.cli.arguments import parse_name
from tollkeeper.cli.context import open_administration, open_context
from tollkeeper.cli.output import AsJson, print_json, print_line, print_table
from tollkeeper.identity import accounts
from tollkeeper.identity.models import Tenant

app = typer.Typer(
    name="tenant", help="Create, list, disable and enable tenants.", no_args_is_help=True, add_completion=False
)

COLUMNS = ("id", "tenant", "state", "created")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The tenant's name.")]


@app.command()
def create(name: Name, as_json: AsJson = False) -> None:
    """Create a tenant."""

    async def create_tenant() -> Tenant:
        async with open_administration() as administration:
            return await tenants.create_tenant(administration.admin, name)

    _print_result(asyncio.run(create_tenant()), "created", as_json=as_json)


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List the tenants."""

    async def read() -> list[Tenant]:
        async with open_context() as context, context.database.session() as session:
            return await accounts.list_tenants(session)

    rows = list(map(_row, asyncio.run(read())))
    if as_json:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    else:
        print_table(COLUMNS, [tuple(map(str, row)) for row in rows])


@app.command()
def disable(name: Name, as_json: AsJson = False) -> None:
    """Refuse a tenant and its users from the next request on. Calls in flight are settled."""
    _print_result(asyncio.run(_set_enabled(name, enabled=False)), "disabled", as_json=as_json)


@app.command()
def enable(name: Name, as_json: AsJson = False) -> None:
    """Admit a tenant again."""
    _print_result(asyncio.run(_set_enabled(name, enabled=True)), "enabled", as_json=as_json)


def _row(tenant: Tenant) -> tuple[int | str | None, ...]:
    return tenant.id, tenant.name, "disabled" if tenant.disabled_at else "active", f"{tenant.created_at:%Y-%m-%d}"


def _print_result(tenant: Tenant, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(dict(zip(COLUMNS, _row(tenant), strict=True)))
    else:
        print_line(f"The tenant {tenant.name} is {what}.")


async def _set_enabled(name: str, *, enabled: bool) -> Tenant:
    async with open_administration() as administration:
        admin = administration.admin
        tenant = await accounts.get_tenant_by_name(admin.session, parse_name(name))
        return await tenants.change_tenant(admin, tenant, {"disabled": not enabled})
