"""`tollkeeper sso`: the OpenID providers of tenants, their domains, and the identities of users."""

import asyncio
from contextlib import closing
from typing import Annotated

import typer

from tollkeeper.administration import single_sign_on
from tollkeeper.administration.single_sign_on import DEFAULT_SCOPES, ProviderSettings
from tollkeeper.cli.arguments import parse_name, read_password
from tollkeeper.cli.context import Administration, open_administration
from tollkeeper.cli.output import AsJson, iso_time, print_json, print_pairs, print_table
from tollkeeper.cli.user_output import Record, print_result
from tollkeeper.errors import InvalidRequest, OutboundError
from tollkeeper.identity import accounts
from tollkeeper.identity.models import IdentityProvider
from tollkeeper.identity.oidc.client import OpenIdClient
from tollkeeper.outbound.client import OutboundClient

app = typer.Typer(
    name="sso",
    help="Set up single sign-on: providers, domains, identities.",
    no_args_is_help=True,
    add_completion=False,
)

Tenant = Annotated[str, typer.Argument(metavar="TENANT", show_default=False, help="The tenant's name.")]
Domain = Annotated[str, typer.Argument(metavar="DOMAIN", show_default=False, help="Such as example.com.")]
Email = Annotated[str, typer.Argument(metavar="EMAIL", show_default=False, help="The user's e-mail address.")]


@app.command()
def show(tenant: Tenant, as_json: AsJson = False) -> None:
    """Show a tenant's provider, and the redirect URI to enter there. The client's secret is never shown."""

    async def read() -> Record:
        async with open_administration() as administration:
            tenant_id = await _tenant_id(administration, tenant)
            return _record(administration, await single_sign_on.get_provider(administration.admin, tenant_id))

    record = asyncio.run(read())
    if as_json:
        print_json(record)
    else:
        print_pairs((name, str(value)) for name, value in record.items())


@app.command(name="set")
def set_(
    tenant: Tenant,
    name: Annotated[str, typer.Option(metavar="NAME", show_default=False, help="Its name in the URLs.")],
    issuer: Annotated[str, typer.Option(metavar="URL", show_default=False, help="The issuer, as in its discovery.")],
    client_id: Annotated[str, typer.Option(metavar="ID", show_default=False, help="This server's id there.")],
    client_secret_stdin: Annotated[
        bool, typer.Option("--client-secret-stdin", help="Read the client's secret from standard input.")
    ] = False,
    public_client: Annotated[bool, typer.Option("--public-client", help="The client has no secret.")] = False,
    scopes: Annotated[str, typer.Option(metavar="SCOPES", help="What to ask for.")] = DEFAULT_SCOPES,
    role_claim: Annotated[str | None, typer.Option(metavar="CLAIM", help="The claim that makes tenant admins.")] = None,
    admin_value: Annotated[
        list[str] | None, typer.Option(metavar="VALUE", help="A value of the claim that does; may be repeated.")
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Refuse logins with it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set a tenant's provider. Without a secret, the stored one stays, if issuer and client are the same."""
    settings = ProviderSettings(
        name=name,
        issuer=issuer,
        client_id=client_id,
        client_secret=read_password(from_stdin=True) if client_secret_stdin else None,
        is_public_client=public_client,
        scopes=scopes,
        role_claim=role_claim,
        admin_values=tuple(admin_value or ()),
        disabled=disabled,
    )
    settings.check()

    async def store() -> Record:
        async with open_administration() as administration:
            await _check(administration, issuer)
            tenant_id = await _tenant_id(administration, tenant)
            keys = administration.keys
            changed = await single_sign_on.set_provider(administration.admin, keys, tenant_id, settings)
            return _record(administration, changed)

    record = asyncio.run(store())
    print_result(
        record, f"The provider is set. Enter this redirect URI there: {record['redirect_uri']}", as_json=as_json
    )


@app.command()
def remove(tenant: Tenant, as_json: AsJson = False) -> None:
    """Remove a tenant's provider. The identities of users stay."""

    async def remove_provider() -> None:
        async with open_administration() as administration:
            tenant_id = await _tenant_id(administration, tenant)
            await single_sign_on.remove_provider(administration.admin, tenant_id)

    asyncio.run(remove_provider())
    record = {"tenant": tenant.strip(), "removed": True}
    print_result(record, f"The tenant {tenant.strip()} has no provider any more.", as_json=as_json)


@app.command()
def domains(tenant: Tenant, as_json: AsJson = False) -> None:
    """List the domains whose people become users of a tenant at their first login."""

    async def read() -> list[tuple[str, str]]:
        async with open_administration() as administration:
            tenant_id = await _tenant_id(administration, tenant)
            rows = await single_sign_on.list_domains(administration.admin, tenant_id)
            return [(row.domain, iso_time(row.created_ms) or "") for row in rows]

    rows = asyncio.run(read())
    if as_json:
        print_json([{"domain": domain, "created": created} for domain, created in rows])
    else:
        print_table(("domain", "created"), [(domain, created[:10]) for domain, created in rows])


@app.command(name="add-domain")
def add_domain(tenant: Tenant, domain: Domain, as_json: AsJson = False) -> None:
    """Give a domain to a tenant, after you have verified that it is the tenant's."""

    async def add() -> str:
        async with open_administration() as administration:
            tenant_id = await _tenant_id(administration, tenant)
            return (await single_sign_on.add_domain(administration.admin, tenant_id, domain)).domain

    added = asyncio.run(add())
    record = {"tenant": tenant.strip(), "domain": added}
    print_result(record, f"The domain {added} belongs to the tenant {tenant.strip()}.", as_json=as_json)


@app.command(name="remove-domain")
def remove_domain(tenant: Tenant, domain: Domain, as_json: AsJson = False) -> None:
    """Take a domain from a tenant. Users who exist stay."""

    async def remove_it() -> None:
        async with open_administration() as administration:
            tenant_id = await _tenant_id(administration, tenant)
            await single_sign_on.remove_domain(administration.admin, tenant_id, domain)

    asyncio.run(remove_it())
    record = {"domain": domain, "removed": True}
    print_result(record, f"The domain {domain} does not belong to the tenant any more.", as_json=as_json)


@app.command()
def identities(email: Email, as_json: AsJson = False) -> None:
    """List who a user is at the tenant's provider."""

    async def read() -> list[tuple[str, str]]:
        async with open_administration() as administration:
            user_id = await _user_id(administration, email)
            rows = await single_sign_on.list_identities(administration.admin, user_id)
            return [(row.issuer, row.subject) for row in rows]

    rows = asyncio.run(read())
    if as_json:
        print_json([{"issuer": issuer, "subject": subject} for issuer, subject in rows])
    else:
        print_table(("issuer", "subject"), rows)


@app.command()
def link(
    email: Email,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", show_default=False, help="The person's `sub` there.")],
    as_json: AsJson = False,
) -> None:
    """Let the person with this subject at the tenant's provider log in as the user."""

    async def store() -> Record:
        async with open_administration() as administration:
            user_id = await _user_id(administration, email)
            row = await single_sign_on.link_identity(administration.admin, user_id, subject)
            return {"user_id": row.user_id, "issuer": row.issuer, "subject": row.subject}

    print_result(asyncio.run(store()), "The user is linked.", as_json=as_json)


@app.command()
def unlink(email: Email, as_json: AsJson = False) -> None:
    """Remove all identities of a user."""

    async def remove_all() -> int:
        async with open_administration() as administration:
            user_id = await _user_id(administration, email)
            await single_sign_on.unlink_identities(administration.admin, user_id)
            return user_id

    record = {"user_id": asyncio.run(remove_all()), "identities": []}
    print_result(record, "The user is not linked any more.", as_json=as_json)


COMMAND = 0
"""No tenant: a command has a client of its own, which serves no tenants."""


async def _check(administration: Administration, issuer: str) -> None:
    """Read the provider's configuration, before the transaction begins. Raises InvalidRequest."""
    context = administration.context
    with closing(OutboundClient(context.settings.private_networks, ca_file=context.settings.ca_file)) as outbound:
        client = OpenIdClient(outbound, context.settings.public_base_url, context.clock)
        try:
            await client.check(issuer, tenant_id=COMMAND)
        except OutboundError as error:
            raise InvalidRequest(f"The identity provider cannot be used: {error.detail}") from None


async def _tenant_id(administration: Administration, name: str) -> int:
    tenant = await accounts.get_tenant_by_name(administration.admin.session, parse_name(name))
    assert tenant.id is not None
    return tenant.id


async def _user_id(administration: Administration, email: str) -> int:
    user = await accounts.get_user_by_email(administration.admin.session, email)
    assert user.id is not None
    return user.id


def _record(administration: Administration, provider: IdentityProvider) -> Record:
    base_url = administration.context.settings.public_base_url
    return single_sign_on.record_of(provider) | {
        "has_client_secret": provider.sealed_client_secret is not None,
        "redirect_uri": f"{base_url}/auth/oidc/{provider.name}/callback",
    }
