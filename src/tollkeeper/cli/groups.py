"""`tollkeeper group`: create, list and close the groups of a tenant's users, and change who is a member."""

import asyncio
import re
from typing import Annotated

import typer

from tollkeeper.administration import groups
from tollkeeper.administration.administrator import Administrator
from tollkeeper.cli.arguments import parse_name
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, iso_time, print_json, print_line, print_table
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.identity.models import GroupMember, UserGroup
from tollkeeper.principal import GROUP_NAME_PATTERN

app = typer.Typer(
    name="group",
    help="Create, list and close groups of users; add and remove members.",
    no_args_is_help=True,
    add_completion=False,
)

Tenant = Annotated[str, typer.Option("--tenant", metavar="NAME", show_default=False, help="The tenant.")]
Name = Annotated[str, typer.Argument(metavar="GROUP", show_default=False, help="The name of the group.")]
Email = Annotated[str, typer.Argument(metavar="EMAIL", show_default=False, help="The user's e-mail address.")]


@app.command()
def create(name: Name, tenant: Tenant) -> None:
    """Create a group."""
    if not re.match(GROUP_NAME_PATTERN, name):
        raise InvalidRequest("A group's name is 1 to 64 letters, digits, '.', '_' and '-'.")

    async def create_group() -> UserGroup:
        async with open_administration() as administration:
            admin = administration.admin
            return await groups.create_group(admin, await _tenant_id(admin, tenant), name)

    made = asyncio.run(create_group())
    print_line(f"Created the group {made.name} ({made.id}) of tenant {tenant}.")


@app.command(name="list")
def list_(tenant: Tenant, as_json: AsJson = False) -> None:
    """List the groups of a tenant, with the ids of their members."""

    async def read() -> list[tuple[UserGroup, list[GroupMember]]]:
        async with open_administration() as administration:
            admin = administration.admin
            tenant_id, most = await _tenant_id(admin, tenant), groups.MAX_GROUPS_PER_TENANT
            return [
                (group, await groups.list_members(admin, group, after=0, limit=most))
                for group in await groups.list_groups(admin, tenant_id, after=0, limit=most)
            ]

    found = asyncio.run(read())
    if as_json:
        print_json(
            [
                {
                    "id": group.id,
                    "name": group.name,
                    "created_at": iso_time(group.created_ms),
                    "members": [{"user_id": member.user_id, "default": member.is_default} for member in members],
                }
                for group, members in found
            ]
        )
        return
    rows = [
        (str(group.id), group.name, iso_time(group.created_ms) or "", str(len(members))) for group, members in found
    ]
    print_table(("group", "name", "created", "members"), rows)


@app.command()
def close(name: Name, tenant: Tenant) -> None:
    """Close a group: no call counts for it any more. Its quotas and charges stay."""

    async def close_group() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            group = await groups.find_group(admin, await _tenant_id(admin, tenant), parse_name(name))
            await groups.close_group(admin, group.id or 0)

    asyncio.run(close_group())
    print_line(f"The group {name} is closed.")


@app.command()
def add(
    name: Name,
    email: Email,
    default: Annotated[
        bool, typer.Option("--default", help="The user's requests that name no group count for this one.")
    ] = False,
) -> None:
    """Make a user a member of a group of the user's tenant."""

    async def put_member() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            group_id, user_id = await _find_both(admin, name, email)
            await groups.put_member(admin, group_id, user_id, is_default=default)

    asyncio.run(put_member())
    print_line(f"{email} is in the group {name}{', the default one' if default else ''}.")


@app.command()
def remove(name: Name, email: Email) -> None:
    """End a user's membership in a group."""

    async def remove_member() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            await groups.remove_member(admin, *await _find_both(admin, name, email))

    asyncio.run(remove_member())
    print_line(f"{email} is not in the group {name} any more.")


async def _tenant_id(admin: Administrator, name: str) -> int:
    tenant = await accounts.get_tenant_by_name(admin.session, parse_name(name))
    assert tenant.id is not None
    return tenant.id


async def _find_both(admin: Administrator, name: str, email: str) -> tuple[int, int]:
    """The ids of a user, and of a group of the user's tenant. Raises NotFound, InvalidRequest."""
    user = await accounts.get_user_by_email(admin.session, parse_name(email))
    group = await groups.find_group(admin, user.tenant_id, parse_name(name))
    return group.id or 0, user.id or 0
