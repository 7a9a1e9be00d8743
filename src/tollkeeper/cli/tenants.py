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

COLUMNS = ("tenant", "state", "created")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The tenant's name.")]


@app.command()
def create(name: Name) -> None:
    """Create a tenant."""

    async def create_tenant() -> None:
        async with open_administration() as administration:
            await tenants.create_tenant(administration.admin, name)

    asyncio.run(create_tenant())
    print_line(f"The tenant {name.strip()} is created.")


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List the tenants."""

    async def read() -> list[Tenant]:
        async with open_context() as context, context.database.session() as session:
            return await accounts.list_tenants(session)

    rows = [
        (tenant.name, "disabled" if tenant.disabled_at else "active", f"{tenant.created_at:%Y-%m-%d}")
        for tenant in asyncio.run(read())
    ]
    if as_json:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    else:
        print_table(COLUMNS, rows)


@app.command()
def disable(name: Name) -> None:
    """Refuse a tenant and its users from the next request on. Calls in flight are settled."""
    asyncio.run(_set_enabled(name, enabled=False))
    print_line(f"The tenant {name.strip()} is disabled.")


@app.command()
def enable(name: Name) -> None:
    """Admit a tenant again."""
    asyncio.run(_set_enabled(name, enabled=True))
    print_line(f"The tenant {name.strip()} is enabled.")


async def _set_enabled(name: str, *, enabled: bool) -> None:
    async with open_administration() as administration:
        admin = administration.admin
        tenant = await accounts.get_tenant_by_name(admin.session, parse_name(name))
        await tenants.change_tenant(admin, tenant, {"disabled": not enabled})
