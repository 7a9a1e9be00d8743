"""`tollkeeper tenant`: customers."""

import asyncio
from typing import Annotated

import typer

from tollkeeper.cli import tables, values
from tollkeeper.cli.context import opened
from tollkeeper.identity import accounts

app = typer.Typer(help="Create, list, disable and enable tenants.")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The tenant's name.")]


@app.command()
def create(name: Name) -> None:
    """Create a tenant."""

    async def work() -> None:
        async with opened() as install, install.database.session() as session:
            await accounts.create_tenant(session, name)

    asyncio.run(work())
    typer.echo(f"The tenant {name.strip()} is created.")


@app.command(name="list")
def list_() -> None:
    """List the tenants."""

    async def rows() -> list[tuple[str, str, str]]:
        async with opened() as install, install.database.session() as session:
            return [
                (tenant.name, "disabled" if tenant.disabled_at else "active", f"{tenant.created_at:%Y-%m-%d}")
                for tenant in await accounts.list_tenants(session)
            ]

    tables.show(("tenant", "state", "created"), asyncio.run(rows()))


@app.command()
def disable(name: Name) -> None:
    """Shut a tenant and its users out, from the next request on. What is in flight is settled."""
    asyncio.run(_switch(name, on=False))
    typer.echo(f"The tenant {name.strip()} is disabled.")


@app.command()
def enable(name: Name) -> None:
    """Let a tenant in again."""
    asyncio.run(_switch(name, on=True))
    typer.echo(f"The tenant {name.strip()} is enabled.")


async def _switch(name: str, *, on: bool) -> None:
    async with opened() as install, install.database.session() as session:
        tenant = await accounts.tenant_named(session, values.name(name))
        (accounts.enable if on else accounts.disable)(tenant)
