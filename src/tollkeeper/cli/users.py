"""`tollkeeper user`: create, list, disable and enable users, and replace a forgotten password."""

import asyncio
from contextlib import closing
from typing import Annotated

import typer

from tollkeeper.cli import user_import
from tollkeeper.cli.arguments import parse_name, parse_role, read_password
from tollkeeper.cli.context import CommandContext, open_context
from tollkeeper.cli.output import AsJson, print_json, print_line, print_table
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.models import Tenant, User
from tollkeeper.identity.passwords import Passwords

app = typer.Typer(
    name="user",
    help="Create, import, list, disable and enable users; set a new password.",
    no_args_is_help=True,
    add_completion=False,
)

COLUMNS = ("email", "tenant", "role", "state", "created")

Email = Annotated[str, typer.Argument(metavar="EMAIL", show_default=False, help="The user's e-mail address.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input instead of a prompt.")
]


@app.command()
def create(
    email: Email,
    tenant: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="The user's tenant.")],
    role: Annotated[str, typer.Option(metavar="member|tenant_admin|operator", help="What the user may do.")] = "member",
    password_stdin: PasswordStdin = False,
) -> None:
    """Create a user, without a quota. Set one with `tollkeeper quota set`."""
    parsed_role, address = parse_role(role), accounts.normalize_email(email)
    new_password = read_password(from_stdin=password_stdin)

    async def create_user() -> None:
        async with open_context() as context:
            async with context.database.session() as session:
                await accounts.get_tenant_by_name(session, parse_name(tenant))
            password_hash = await _hash(context, new_password)
            async with context.database.session() as session:
                await accounts.create_user(session, parse_name(tenant), address, password_hash, parsed_role)

    asyncio.run(create_user())
    print_line(f"The user {address} is created, as {parsed_role} of the tenant {tenant.strip()}.")


@app.command(name="list")
def list_(
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="Only this tenant's users.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the users."""

    async def read_rows() -> list[tuple[str, ...]]:
        async with open_context() as context, context.database.session() as session:
            only_tenant = await accounts.get_tenant_by_name(session, parse_name(tenant)) if tenant is not None else None
            return [
                (user.email, user_tenant.name, user.role, _state(user, user_tenant), f"{user.created_at:%Y-%m-%d}")
                for user, user_tenant in await accounts.list_users(session, only_tenant)
            ]

    rows = asyncio.run(read_rows())
    if as_json:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    else:
        print_table(COLUMNS, rows)


@app.command()
def disable(email: Email) -> None:
    """Refuse a user from the next request on. Calls in flight are settled."""
    asyncio.run(_set_enabled(email, enabled=False))
    print_line(f"The user {accounts.normalize_email(email)} is disabled.")


@app.command()
def enable(email: Email) -> None:
    """Admit a user again."""
    asyncio.run(_set_enabled(email, enabled=True))
    print_line(f"The user {accounts.normalize_email(email)} is enabled.")


@app.command()
def password(email: Email, password_stdin: PasswordStdin = False) -> None:
    """Set a new password. The user's bearer tokens are invalid from the next request on; API keys stay valid."""
    address = accounts.normalize_email(email)
    new_password = read_password(from_stdin=password_stdin)

    async def change_password() -> int:
        async with open_context() as context:
            async with context.database.session() as session:
                await accounts.get_user_by_email(session, address)
            password_hash = await _hash(context, new_password)
            async with context.database.session() as session:
                user = await accounts.get_user_by_email(session, address)
                accounts.change_password(user, password_hash)
                return len(await keys.list_keys(session, user))

    key_count = asyncio.run(change_password())
    print_line(f"The user {address} has a new password.")
    if key_count:
        print_line(f"{key_count} API keys are still valid. To revoke them: tollkeeper key revoke {address} --all")


user_import.register(app)


async def _set_enabled(email: str, *, enabled: bool) -> None:
    async with open_context() as context, context.database.session() as session:
        user = await accounts.get_user_by_email(session, email)
        if enabled:
            accounts.enable(user)
        else:
            accounts.disable(user, context.clock.now_ms())


async def _hash(context: CommandContext, password: str) -> str:
    with closing(Passwords(context.settings.bcrypt_rounds)) as passwords:
        return await passwords.hash(password)


def _state(user: User, tenant: Tenant) -> str:
    if user.disabled_at:
        return "disabled"
    return "tenant disabled" if tenant.disabled_at else "active"
