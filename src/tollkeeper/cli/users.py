"""`tollkeeper user`: create, list, disable, enable and erase users, replace a forgotten password, and invite people."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from typing import Annotated

import typer

from tollkeeper.administration import users
from tollkeeper.administration.users import NewUser
from tollkeeper.cli import user_import, user_links
from tollkeeper.cli.arguments import parse_name, parse_role, read_password
from tollkeeper.cli.context import CommandContext, open_administration, open_context
from tollkeeper.cli.new_users import give_quotas
from tollkeeper.cli.output import AsJson, print_json, print_line, print_table
from tollkeeper.cli.user_output import Record, print_result, record_user, state_of
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.models import User, UserKind
from tollkeeper.identity.passwords import Passwords

app = typer.Typer(
    name="user",
    help="Create, invite, import, list, disable, enable and erase users; set a new password.",
    no_args_is_help=True,
    add_completion=False,
)

COLUMNS = ("id", "email", "tenant", "role", "state", "created")

Email = Annotated[str, typer.Argument(metavar="EMAIL", show_default=False, help="The user's e-mail address.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input instead of a prompt.")
]


@app.command()
def create(
    email: Annotated[
        str,
        typer.Argument(metavar="EMAIL", show_default=False, help="The user's e-mail address; with --service, a name."),
    ],
    tenant: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="The user's tenant.")],
    role: Annotated[str, typer.Option(metavar="member|tenant_admin|operator", help="What the user may do.")] = "member",
    service: Annotated[
        bool, typer.Option("--service", help="Create a service account, which has API keys and no password.")
    ] = False,
    password_stdin: PasswordStdin = False,
    as_json: AsJson = False,
) -> None:
    """Create a user, with the tenant's default quota if it has one. Set another with `tollkeeper quota set`."""
    parsed_role = parse_role(role)
    address = email if service else users.person_email(email)
    new_password = read_password(from_stdin=password_stdin) if not service else None

    async def create_user() -> Record:
        async with open_administration() as administration:
            admin = administration.admin
            found = await accounts.get_tenant_by_name(admin.session, parse_name(tenant))
            assert found.id is not None
            await admin.session.commit()  # no transaction is open while the password is hashed
            if new_password is None:
                new = NewUser(name=address, role=parsed_role, kind=UserKind.SERVICE, tenant_id=found.id)
            else:
                password_hash = await _hash(administration.context, new_password)
                new = NewUser(address, role=parsed_role, tenant_id=found.id, password_hash=password_hash)
            user = await users.create_user(admin, new)
            record = await record_user(admin.session, user)
            await give_quotas(administration, [user.tenant_id], _ids([user]))
            return record

    record = asyncio.run(create_user())
    noun = "service account" if service else "user"
    sentence = f"The {noun} {record['email']} is created, as {parsed_role} of the tenant {tenant.strip()}."
    print_result(record, sentence, as_json=as_json)


@app.command(name="list")
def list_(
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="Only this tenant's users.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the users."""

    async def read_rows() -> list[tuple[int | str | None, ...]]:
        async with open_context() as context, context.database.session() as session:
            only_tenant = await accounts.get_tenant_by_name(session, parse_name(tenant)) if tenant is not None else None
            return [
                (
                    *(user.id, user.email, user_tenant.name, user.role),
                    *(state_of(user, user_tenant), f"{user.created_at:%Y-%m-%d}"),
                )
                for user, user_tenant in await accounts.list_users(session, only_tenant)
            ]

    rows = asyncio.run(read_rows())
    if as_json:
        print_json([dict(zip(COLUMNS, row, strict=True)) for row in rows])
    else:
        print_table(COLUMNS, [tuple(map(str, row)) for row in rows])


@app.command()
def disable(email: Email, as_json: AsJson = False) -> None:
    """Refuse a user from the next request on. Calls in flight are settled."""
    record = asyncio.run(_set_enabled(email, enabled=False))
    print_result(record, f"The user {accounts.normalize_email(email)} is disabled.", as_json=as_json)


@app.command()
def enable(email: Email, as_json: AsJson = False) -> None:
    """Admit a user again."""
    record = asyncio.run(_set_enabled(email, enabled=True))
    print_result(record, f"The user {accounts.normalize_email(email)} is enabled.", as_json=as_json)


@app.command()
def password(email: Email, password_stdin: PasswordStdin = False, as_json: AsJson = False) -> None:
    """Set a new password. The user's bearer tokens are invalid from the next request on; API keys stay valid."""
    address = accounts.normalize_email(email)
    new_password = read_password(from_stdin=password_stdin)

    async def change_password() -> tuple[Record, int]:
        async with open_administration() as administration:
            session = administration.admin.session
            await accounts.get_user_by_email(session, address)
            await session.commit()  # no transaction is open while the password is hashed
            password_hash = await _hash(administration.context, new_password)
            session.expire_all()
            user = await accounts.get_user_by_email(session, address)
            await users.change_password(administration.admin, user, password_hash)
            return await record_user(session, user), len(await keys.list_keys(session, user))

    record, key_count = asyncio.run(change_password())
    print_result(record | {"api_keys": key_count}, f"The user {address} has a new password.", as_json=as_json)
    if key_count and not as_json:
        print_line(f"{key_count} API keys are still valid. To revoke them: tollkeeper key revoke {address} --all")


user_links.register(app)
user_import.register(app)


async def _set_enabled(email: str, *, enabled: bool) -> Record:
    async with open_administration() as administration:
        admin = administration.admin
        user = await accounts.get_user_by_email(admin.session, email)
        await users.change_user(admin, user, {"disabled": not enabled})
        return await record_user(admin.session, user)


async def _hash(context: CommandContext, password: str) -> str:
    with closing(Passwords(context.settings.bcrypt_rounds)) as passwords:
        return await passwords.hash(password)


def _ids(rows: Sequence[User]) -> list[int]:
    return [row.id for row in rows if row.id is not None]
