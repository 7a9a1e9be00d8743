"""`tollkeeper provider-key`: list, set and delete a tenant's own keys for providers."""

import asyncio
import sys
from typing import Annotated

import typer
from pydantic import SecretStr

from tollkeeper.administration import provider_keys
from tollkeeper.administration.administrator import Administrator
from tollkeeper.bootstrap.catalog import make_catalog
from tollkeeper.cli.arguments import parse_name
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.output import AsJson, iso_time, print_json, print_line, print_table
from tollkeeper.configuration.models import ProviderKey
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts

app = typer.Typer(
    name="provider-key",
    help="List, set and delete a tenant's own keys for providers.",
    no_args_is_help=True,
    add_completion=False,
)

MAX_KEY_LINE_BYTES = 4096

TenantName = Annotated[str, typer.Option("--tenant", metavar="NAME", show_default=False, help="The tenant.")]
Provider = Annotated[str, typer.Argument(metavar="PROVIDER", show_default=False, help="The provider's name.")]


@app.command(name="list")
def list_(tenant: TenantName, as_json: AsJson = False) -> None:
    """List a tenant's keys. The keys themselves cannot be shown."""

    async def read() -> list[ProviderKey]:
        async with open_administration() as administration:
            admin = administration.admin
            return await provider_keys.list_keys(admin, await _tenant_id(admin, tenant))

    found = asyncio.run(read())
    if as_json:
        print_json([_record(key) for key in found])
    else:
        rows = [(key.provider, f"…{key.suffix}", iso_time(key.created_ms) or "") for key in found]
        print_table(("provider", "ends with", "created"), rows)


@app.command(name="set")
def set_(
    provider: Provider,
    tenant: TenantName,
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read the key from standard input instead of a prompt.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Set or replace a tenant's key. The tenant's calls of the provider carry it within about a second."""
    secret = _read_key(from_stdin=key_stdin)

    async def act() -> ProviderKey:
        async with open_administration() as administration:
            admin, catalog = administration.admin, make_catalog(administration.context.settings)
            tenant_id = await _tenant_id(admin, tenant)
            return await provider_keys.set_key(admin, administration.keys, catalog, tenant_id, provider, secret)

    key = asyncio.run(act())
    if as_json:
        print_json(_record(key))
    else:
        print_line(f"The key of {tenant.strip()} for {provider} is set. It ends with {key.suffix}.")


@app.command()
def delete(provider: Provider, tenant: TenantName) -> None:
    """Delete a tenant's key. The tenant's calls of the provider carry the operator's key again."""

    async def act() -> None:
        async with open_administration() as administration:
            admin = administration.admin
            await provider_keys.delete_key(admin, await _tenant_id(admin, tenant), provider)

    asyncio.run(act())
    print_line(f"The key of {tenant.strip()} for {provider} is deleted.")


async def _tenant_id(admin: Administrator, name: str) -> int:
    tenant = await accounts.get_tenant_by_name(admin.session, parse_name(name))
    assert tenant.id is not None
    return tenant.id


def _read_key(*, from_stdin: bool) -> SecretStr:
    """One line of standard input, or what is typed at a prompt, without echo."""
    if not from_stdin:
        if not sys.stdin.isatty():
            raise InvalidRequest("There is no terminal. Give the key on standard input, with --key-stdin.")
        return SecretStr(str(typer.prompt("Key", hide_input=True, err=True)))
    line = sys.stdin.buffer.readline(MAX_KEY_LINE_BYTES).decode(errors="replace")
    return SecretStr(line.removesuffix("\n").removesuffix("\r"))


def _record(key: ProviderKey) -> dict[str, object]:
    return {
        "tenant_id": key.tenant_id,
        "provider": key.provider,
        "suffix": key.suffix,
        "created": iso_time(key.created_ms),
    }
