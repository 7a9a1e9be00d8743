"""`tollkeeper user`: who can log in, and the way back in when a password is lost."""

import asyncio
from contextlib import closing
from typing import Annotated

import typer

from tollkeeper.cli import tables, values
from tollkeeper.cli.context import CommandContext, opened
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.models import Tenant, User
from tollkeeper.identity.passwords import Passwords

app = typer.Typer(help="Create, list, disable and enable users; give a new password.")

Email = Annotated[str, typer.Argument(metavar="EMAIL", show_default=False, help="The user's e-mail address.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input instead of asking for it.")
]


@app.command()
def create(
    email: Email,
    tenant: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="The user's tenant.")],
    role: Annotated[str, typer.Option(metavar="member|tenant_admin|operator", help="What the user may do.")] = "member",
    password_stdin: PasswordStdin = False,
) -> None:
    """Create a user. The quota is set apart, with `tollkeeper quota set`."""
    chosen, address = values.role(role), accounts.normal_email(email)
    password = values.password(from_stdin=password_stdin)

    async def work() -> None:
        async with opened() as install:
            async with install.database.session() as session:
                await accounts.tenant_named(session, values.name(tenant))
            password_hash = await _hash(install, password)
            async with install.database.session() as session:
                await accounts.create_user(session, values.name(tenant), address, password_hash, chosen)

    asyncio.run(work())
    typer.echo(f"The user {address} is created, as {chosen} of the tenant {tenant.strip()}.")


@app.command(name="list")
def list_(
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="Only this tenant's users.")] = None,
) -> None:
    """List the users."""

    async def rows() -> list[tuple[str, ...]]:
        async with opened() as install, install.database.session() as session:
            only = await accounts.tenant_named(session, values.name(tenant)) if tenant is not None else None
            return [
                (user.email, home.name, user.role, _state(user, home), f"{user.created_at:%Y-%m-%d}")
                for user, home in await accounts.list_users(session, only)
            ]

    tables.show(("e-mail", "tenant", "role", "state", "created"), asyncio.run(rows()))


@app.command()
def disable(email: Email) -> None:
    """Shut a user out, from the next request on. What is in flight is settled."""
    asyncio.run(_switch(email, on=False))
    typer.echo(f"The user {accounts.normal_email(email)} is disabled.")


@app.command()
def enable(email: Email) -> None:
    """Let a user in again."""
    asyncio.run(_switch(email, on=True))
    typer.echo(f"The user {accounts.normal_email(email)} is enabled.")


@app.command()
def password(email: Email, password_stdin: PasswordStdin = False) -> None:
    """Give a user a new password. Every token given out so far is dead from the next request on; API keys are not."""
    address = accounts.normal_email(email)
    chosen = values.password(from_stdin=password_stdin)

    async def work() -> int:
        async with opened() as install:
            async with install.database.session() as session:
                await accounts.user_with_email(session, address)
            password_hash = await _hash(install, chosen)
            async with install.database.session() as session:
                user = await accounts.user_with_email(session, address)
                accounts.change_password(user, password_hash)
                return len(await keys.keys_of(session, user))

    good_keys = asyncio.run(work())
    typer.echo(f"The user {address} has a new password.")
    if good_keys:
        typer.echo(f"{good_keys} API keys are still good. To revoke them: tollkeeper key revoke {address} --all")


async def _switch(email: str, *, on: bool) -> None:
    async with opened() as install, install.database.session() as session:
        user = await accounts.user_with_email(session, email)
        (accounts.enable if on else accounts.disable)(user)


async def _hash(install: CommandContext, password: str) -> str:
    with closing(Passwords(install.settings.bcrypt_rounds)) as passwords:
        return await passwords.hash(password)


def _state(user: User, tenant: Tenant) -> str:
    if user.disabled_at:
        return "disabled"
    return "tenant disabled" if tenant.disabled_at else "active"
