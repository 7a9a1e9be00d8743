"""`tollkeeper tag`: declare, list, change and close the tags that the calls of a tenant may have."""

import asyncio
from typing import Annotated

import typer

from tollkeeper.administration import tags
from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.tags import DEFAULT_MAX_VALUES, MAX_KNOWN_VALUES, TagTerms
from tollkeeper.cli.arguments import parse_name, parse_number
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, iso_time, print_json, print_line, print_table
from tollkeeper.identity import accounts
from tollkeeper.identity.tag_models import TagName

app = typer.Typer(
    name="tag", help="Declare, list, change and close tags of calls.", no_args_is_help=True, add_completion=False
)

Tenant = Annotated[str, typer.Option("--tenant", metavar="NAME", show_default=False, help="The tenant.")]
Name = Annotated[str, typer.Argument(metavar="TAG", show_default=False, help="The name of the tag.")]
Values = Annotated[
    str | None, typer.Option(metavar="VALUE,…", show_default=False, help="The values that it may have. Default: any.")
]
MaxValues = Annotated[str, typer.Option(metavar="N", help="How many values calls may bring, without --values.")]
Required = Annotated[bool, typer.Option("--required", help="Every call of the tenant must have it.")]


@app.command()
def declare(
    name: Name,
    tenant: Tenant,
    values: Values = None,
    max_values: MaxValues = str(DEFAULT_MAX_VALUES),
    required: Required = False,
) -> None:
    """Declare a tag. One that was closed is opened again."""
    terms = _terms(values, max_values, required)

    async def declare_tag() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            await tags.declare_tag(admin, await _tenant_id(admin, tenant), name, terms)

    asyncio.run(declare_tag())
    print_line(f"The tenant {tenant} has the tag {name}.")


@app.command(name="list")
def list_(tenant: Tenant, as_json: AsJson = False) -> None:
    """List the tags of a tenant."""

    async def read() -> list[TagName]:
        async with open_administration() as administration:
            admin, most = administration.admin, tags.MAX_TAGS_PER_TENANT
            return await tags.list_tags(admin, await _tenant_id(admin, tenant), after=0, limit=most)

    found = asyncio.run(read())
    if as_json:
        print_json([_record(tag) for tag in found])
        return
    columns = ("tag", "values", ">known", ">at most", "required")
    print_table(columns, [_row(tag) for tag in found])


@app.command()
def change(
    name: Name,
    tenant: Tenant,
    values: Values = None,
    max_values: MaxValues = str(DEFAULT_MAX_VALUES),
    required: Required = False,
) -> None:
    """Replace the terms of a tag. It counts from the next call on."""
    terms = _terms(values, max_values, required)

    async def change_tag() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            tag = await tags.find_tag(admin, await _tenant_id(admin, tenant), name)
            await tags.change_tag(admin, tag.id or 0, terms)

    asyncio.run(change_tag())
    print_line(f"The tag {name} is changed.")


@app.command()
def close(name: Name, tenant: Tenant) -> None:
    """Close a tag: calls that name it are refused. Its quotas and charges stay."""

    async def close_tag() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            tag = await tags.find_tag(admin, await _tenant_id(admin, tenant), name)
            await tags.close_tag(admin, tag.id or 0)

    asyncio.run(close_tag())
    print_line(f"The tag {name} is closed.")


def _terms(values: str | None, max_values: str, required: bool) -> TagTerms:
    most = parse_number(max_values, "--max-values", 1, MAX_KNOWN_VALUES)
    return TagTerms([one.strip() for one in values.split(",")] if values is not None else None, most, required)


async def _tenant_id(admin: Administrator, name: str) -> int:
    """The id of a tenant. Raises NotFound."""
    return (await accounts.get_tenant_by_name(admin.session, parse_name(name))).id or 0


def _row(tag: TagName) -> tuple[str, ...]:
    kind, required = "any" if tag.any_value else "listed", "yes" if tag.is_required else "no"
    return tag.name, kind, str(tag.known_values), str(tag.max_values), required


def _record(tag: TagName) -> dict[str, object]:
    return {
        "id": tag.id,
        "name": tag.name,
        "any_value": tag.any_value,
        "required": tag.is_required,
        "known_values": tag.known_values,
        "max_values": tag.max_values,
        "created_at": iso_time(tag.created_ms),
    }
