"""Single sign-on: a tenant's OpenID provider, its domains, and the identities of its users."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Response
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.administration import single_sign_on
from tollkeeper.administration.single_sign_on import DEFAULT_SCOPES, MAX_ADMIN_VALUES, ProviderSettings
from tollkeeper.api.admin.caller import AdminCaller, Operator, TenantAdmin, etag
from tollkeeper.api.admin.pages import MAX_ID
from tollkeeper.api.admin.users import UserId
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.errors import InvalidRequest, OutboundError
from tollkeeper.identity import providers
from tollkeeper.identity.domains import MAX_DOMAIN_LENGTH
from tollkeeper.identity.models import Identity, IdentityProvider, TenantDomain
from tollkeeper.identity.oidc.id_tokens import MAX_SUBJECT_LENGTH
from tollkeeper.identity.oidc.metadata import MAX_ISSUER_LENGTH

router = APIRouter(prefix="/admin", tags=["admin"])

OfTenant = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])]
TenantId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[1])]
Domain = Annotated[str, Path(max_length=MAX_DOMAIN_LENGTH, examples=["example.com"])]
Text40 = Annotated[str, Meta(min_length=1, max_length=40)]
Text100 = Annotated[str, Meta(min_length=1, max_length=100)]
Text200 = Annotated[str, Meta(min_length=1, max_length=200)]

EXAMPLE = {
    "name": "acme",
    "issuer": "https://login.example.com/realms/acme",
    "client_id": "tollkeeper",
    "client_secret": "the secret that the provider shows once",
    "role_claim": "groups",
    "admin_values": ["ai-admins"],
}


class SetProviderRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The provider of a tenant. Without `client_secret` the stored one stays, if issuer and client_id are the same;
    `public_client` says that the client has none.
    """

    name: Text40
    issuer: Annotated[str, Meta(min_length=1, max_length=MAX_ISSUER_LENGTH)]
    client_id: Text200
    client_secret: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    public_client: bool = False
    scopes: Text200 = DEFAULT_SCOPES
    role_claim: Text100 | None = None
    admin_values: Annotated[tuple[Text200, ...], Meta(max_length=MAX_ADMIN_VALUES)] = ()
    disabled: bool = False


class ProviderResponse(BaseModel):
    """A provider. Its secret is never shown. `redirect_uri` is to be entered at the provider."""

    tenant_id: int
    name: str
    issuer: str
    client_id: str
    has_client_secret: bool
    scopes: str
    role_claim: str | None
    admin_values: list[str]
    disabled: bool
    redirect_uri: str
    start_url: str
    created_at: Moment


class AddDomainRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A domain that the operator has verified to be the tenant's."""

    domain: Annotated[str, Meta(min_length=1, max_length=MAX_DOMAIN_LENGTH)]


class DomainResponse(BaseModel):
    """A domain of e-mail addresses that belongs to a tenant."""

    domain: str
    tenant_id: int
    created_at: Moment


class DomainListResponse(BaseModel):
    """The domains of a tenant, by name."""

    data: list[DomainResponse]


class LinkIdentityRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The `sub` of the person at the provider of the user's tenant."""

    subject: Annotated[str, Meta(min_length=1, max_length=MAX_SUBJECT_LENGTH)]


class IdentityResponse(BaseModel):
    """Who a user is at an OpenID provider."""

    user_id: int
    issuer: str
    subject: str
    created_at: Moment


class IdentityListResponse(BaseModel):
    """The identities of a user, the oldest first."""

    data: list[IdentityResponse]


ABSENT: dict[int | str, dict[str, Any]] = {
    404: {"description": "The tenant has no identity provider, or does not exist"}
}
PROVIDER_ERRORS: dict[int | str, dict[str, Any]] = ABSENT | {}


@router.get("/identity-provider", responses=ABSENT, summary="The tenant's identity provider")
async def get_identity_provider(
    caller: TenantAdmin, response: Response, tenant_id: OfTenant = None
) -> ProviderResponse:
    found = _provider_response(caller, await single_sign_on.get_provider(caller.admin, _tenant(caller, tenant_id)))
    response.headers["ETag"] = etag(found)
    return found


@router.put(
    "/identity-provider",
    openapi_extra=json_body(SetProviderRequest, EXAMPLE),
    responses=PROVIDER_ERRORS,
    summary="Set the tenant's identity provider",
)
async def set_identity_provider(
    caller: TenantAdmin, response: Response, tenant_id: OfTenant = None
) -> ProviderResponse:
    """Reads the provider's discovery document and keys first, and stores nothing if they are not valid."""
    sent = await caller.read(SetProviderRequest)
    settings = _settings(sent)
    caller.admin.require_fresh_login()
    settings.check()
    of_tenant = _tenant(caller, tenant_id)
    await _check_provider(caller, settings.issuer, of_tenant)
    if "if-match" in caller.request.headers:
        caller.require_match(_provider_response(caller, await single_sign_on.get_provider(caller.admin, of_tenant)))
    changed = await single_sign_on.set_provider(caller.admin, caller.services.data_keys, of_tenant, settings)
    found = _provider_response(caller, changed)
    response.headers["ETag"] = etag(found)
    return found


@router.delete("/identity-provider", status_code=204, responses=ABSENT, summary="Remove the tenant's identity provider")
async def remove_identity_provider(caller: TenantAdmin, tenant_id: OfTenant = None) -> None:
    """Logins with it are refused from now on. The identities of users stay, for the case that it is set again."""
    await single_sign_on.remove_provider(caller.admin, _tenant(caller, tenant_id))


@router.get("/tenants/{tenant_id}/domains", summary="The domains of a tenant")
async def list_tenant_domains(tenant_id: TenantId, caller: Operator) -> DomainListResponse:
    found = await single_sign_on.list_domains(caller.admin, tenant_id)
    return DomainListResponse(data=[_domain_response(row) for row in found])


@router.post(
    "/tenants/{tenant_id}/domains",
    status_code=201,
    response_model=DomainResponse,
    openapi_extra=json_body(AddDomainRequest, {"domain": "example.com"}),
    summary="Give a domain to a tenant",
)
async def add_tenant_domain(tenant_id: TenantId, caller: Operator) -> Response:
    """People with a verified e-mail address of this domain become users when they first log in."""

    async def add(sent: AddDomainRequest) -> DomainResponse:
        return _domain_response(await single_sign_on.add_domain(caller.admin, tenant_id, sent.domain))

    return await caller.once(AddDomainRequest, add)


@router.delete("/tenants/{tenant_id}/domains/{domain}", status_code=204, summary="Take a domain from a tenant")
async def remove_tenant_domain(tenant_id: TenantId, domain: Domain, caller: Operator) -> None:
    await single_sign_on.remove_domain(caller.admin, tenant_id, domain)


@router.get("/users/{user_id}/identities", summary="A user's identities")
async def list_user_identities(user_id: UserId, caller: TenantAdmin) -> IdentityListResponse:
    found = await single_sign_on.list_identities(caller.admin, user_id)
    return IdentityListResponse(data=[_identity_response(row) for row in found])


@router.post(
    "/users/{user_id}/identities",
    status_code=201,
    response_model=IdentityResponse,
    openapi_extra=json_body(LinkIdentityRequest, {"subject": "248289761001"}),
    summary="Link a user to a person at the identity provider",
)
async def link_user_identity(user_id: UserId, caller: TenantAdmin) -> Response:
    """The person can log in as this user from now on. The issuer is that of the tenant's identity provider."""

    async def link(sent: LinkIdentityRequest) -> IdentityResponse:
        return _identity_response(await single_sign_on.link_identity(caller.admin, user_id, sent.subject))

    return await caller.once(LinkIdentityRequest, link)


@router.delete("/users/{user_id}/identities", status_code=204, summary="Remove a user's identities")
async def unlink_user_identities(user_id: UserId, caller: TenantAdmin) -> None:
    await single_sign_on.unlink_identities(caller.admin, user_id)


def _tenant(caller: AdminCaller, tenant_id: int | None) -> int:
    """The tenant of the request: the caller's own unless another one is named. Raises NotFound out of their scope."""
    wanted = tenant_id if tenant_id is not None else caller.principal.tenant_id
    caller.admin.scope.narrow(wanted)
    return wanted


async def _check_provider(caller: AdminCaller, issuer: str, tenant_id: int) -> None:
    """Read the provider's configuration. Raises InvalidRequest if it is not valid."""
    try:
        await caller.outside_transaction(caller.services.openid.check(issuer, tenant_id=tenant_id))
    except OutboundError as error:
        raise InvalidRequest(f"The identity provider cannot be used: {error.detail}", parameter="issuer") from None


def _settings(sent: SetProviderRequest) -> ProviderSettings:
    return ProviderSettings(
        name=sent.name,
        issuer=sent.issuer,
        client_id=sent.client_id,
        client_secret=sent.client_secret,
        is_public_client=sent.public_client,
        scopes=sent.scopes,
        role_claim=sent.role_claim,
        admin_values=sent.admin_values,
        disabled=sent.disabled,
    )


def _provider_response(caller: AdminCaller, provider: IdentityProvider) -> ProviderResponse:
    redirect_uri = caller.services.openid.redirect_uri(provider.name)
    return ProviderResponse(
        tenant_id=provider.tenant_id,
        name=provider.name,
        issuer=provider.issuer,
        client_id=provider.client_id,
        has_client_secret=provider.sealed_client_secret is not None,
        scopes=provider.scopes,
        role_claim=provider.role_claim,
        admin_values=providers.admin_values_of(provider),
        disabled=provider.disabled_ms is not None,
        redirect_uri=redirect_uri,
        start_url=redirect_uri.removesuffix("callback") + "start",
        created_at=iso(provider.created_ms),
    )


def _domain_response(row: TenantDomain) -> DomainResponse:
    return DomainResponse(domain=row.domain, tenant_id=row.tenant_id, created_at=iso(row.created_ms))


def _identity_response(row: Identity) -> IdentityResponse:
    return IdentityResponse(user_id=row.user_id, issuer=row.issuer, subject=row.subject, created_at=iso(row.created_ms))
