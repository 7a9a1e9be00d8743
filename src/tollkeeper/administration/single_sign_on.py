"""Single sign-on: the OpenID provider of a tenant, its domains, and the identities of its users."""

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy.exc import IntegrityError

from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.tenants import differences, get_tenant, target_of
from tollkeeper.administration.users import get_user, require_power_over
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.identity import domains, providers
from tollkeeper.identity.models import Identity, IdentityProvider, TenantDomain, UserKind
from tollkeeper.identity.oidc.id_tokens import is_subject
from tollkeeper.principal import Role

DEFAULT_SCOPES = "openid email profile"
MAX_ADMIN_VALUES = 20
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_SCOPES = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """A provider as an administrator enters it. Without a secret, the one that is stored stays.

    `role_claim` with one of `admin_values` makes a tenant's administrator, and with none a member. Without a claim,
    roles are set here.
    """

    name: str
    issuer: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    is_public_client: bool = False
    scopes: str = DEFAULT_SCOPES
    role_claim: str | None = None
    admin_values: tuple[str, ...] = ()
    disabled: bool = False

    def check(self) -> None:
        """Raises InvalidRequest."""
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest("A name has 1 to 40 lower-case letters, digits and hyphens: it is part of the URL.")
        if not self.client_id.isascii() or not self.client_id.isprintable() or not self.client_id:
            raise InvalidRequest("A client_id has printable ASCII characters.")
        if self.is_public_client and self.client_secret is not None:
            raise InvalidRequest("A public client has no client_secret.")
        if not _SCOPES.fullmatch(self.scopes) or "openid" not in self.scopes.split(" "):
            raise InvalidRequest("The scopes are separated by single spaces, and one of them is openid.")
        if bool(self.role_claim) != bool(self.admin_values):
            raise InvalidRequest("Set both role_claim and admin_values, or neither.")


async def get_provider(admin: Administrator, tenant_id: int) -> IdentityProvider:
    """The provider of a tenant that the administrator may see. Raises NotFound."""
    await get_tenant(admin, tenant_id)
    provider = await providers.get_provider(admin.session, tenant_id)
    if provider is None:
        raise NotFound("This tenant has no identity provider.")
    return provider


async def set_provider(
    admin: Administrator, keys: DataKeys, tenant_id: int, settings: ProviderSettings
) -> IdentityProvider:
    """Set a tenant's provider, whose configuration has been read a moment ago (`OpenIdClient.check`).

    A secret stays only with its issuer and client: an administrator who changes these cannot send it elsewhere.
    Raises StepUpRequired, NotFound, InvalidRequest.
    """
    admin.require_fresh_login()
    settings.check()
    tenant = await get_tenant(admin, tenant_id, to_change=True)
    provider = await providers.get_provider(admin.session, tenant_id, to_change=True)
    before = record_of(provider) if provider is not None else None
    is_same_client = provider is not None and (provider.issuer, provider.client_id) == (
        settings.issuer,
        settings.client_id,
    )
    if provider is None:
        provider = IdentityProvider(tenant_id=tenant_id, name="", issuer="", client_id="", scopes="", created_ms=0)
        provider.created_ms = admin.now_ms
    provider.name, provider.issuer, provider.client_id = settings.name, settings.issuer, settings.client_id
    provider.scopes, provider.role_claim = settings.scopes, settings.role_claim or None
    provider.admin_values = msgspec.json.encode(settings.admin_values).decode() if settings.admin_values else None
    if settings.disabled != (provider.disabled_ms is not None):
        provider.disabled_ms = admin.now_ms if settings.disabled else None
    if settings.is_public_client:
        provider.sealed_client_secret = None
    elif settings.client_secret is not None:
        provider.sealed_client_secret = providers.seal_secret(keys, provider, settings.client_secret)
    elif not is_same_client or provider.sealed_client_secret is None:
        raise InvalidRequest("Send the client_secret, or public_client: true if the client has none.")
    admin.session.add(provider)
    try:
        await admin.session.flush()
    except IntegrityError:
        raise InvalidRequest(f"There is an identity provider named {settings.name} already.") from None
    after = record_of(provider) | {"client_secret": "set anew" if settings.client_secret is not None else "as before"}
    await admin.note(
        tenant_id,
        "identity_provider.set",
        target_of(tenant),
        before=differences(after, before) if before is not None else None,
        after=after,
    )
    return provider


async def remove_provider(admin: Administrator, tenant_id: int) -> None:
    """Users cannot log in by the provider any more. Their identities stay. Raises StepUpRequired, NotFound."""
    admin.require_fresh_login()
    provider = await get_provider(admin, tenant_id)
    await admin.session.delete(provider)
    await admin.session.flush()
    await admin.note(tenant_id, "identity_provider.remove", f"tenant:{tenant_id}", before=record_of(provider))


async def list_domains(admin: Administrator, tenant_id: int) -> list[TenantDomain]:
    """Raises Forbidden for anyone but operators; NotFound."""
    admin.require_operator()
    await get_tenant(admin, tenant_id)
    return await domains.list_domains(admin.session, tenant_id)


async def add_domain(admin: Administrator, tenant_id: int, domain: str) -> TenantDomain:
    """Give a domain to a tenant, after verifying that it is the tenant's. Raises as `list_domains`; InvalidRequest."""
    admin.require_operator()
    tenant = await get_tenant(admin, tenant_id)
    row = await domains.add_domain(admin.session, tenant_id, domain, admin.now_ms)
    await admin.note(tenant_id, "domain.add", target_of(tenant), after={"domain": row.domain})
    return row


async def remove_domain(admin: Administrator, tenant_id: int, domain: str) -> None:
    """New users with this domain are not created any more. Users who exist stay. Raises as `list_domains` does."""
    admin.require_operator()
    tenant = await get_tenant(admin, tenant_id)
    await domains.remove_domain(admin.session, tenant_id, domain)
    await admin.note(tenant_id, "domain.remove", target_of(tenant), before={"domain": domains.normalize_domain(domain)})


async def list_identities(admin: Administrator, user_id: int) -> list[Identity]:
    """The identities of a user whom the administrator may see. Raises NotFound."""
    await get_user(admin, user_id)
    return await providers.list_identities(admin.session, user_id)


async def link_identity(admin: Administrator, user_id: int, subject: str) -> Identity:
    """Let the person with this subject at the tenant's provider log in as the user.

    Raises StepUpRequired; NotFound; Forbidden; InvalidRequest for an operator, a service account, a tenant without a
    provider, or a subject that is linked already.
    """
    admin.require_fresh_login()
    user = await get_user(admin, user_id)
    require_power_over(admin, user)
    if user.role == Role.OPERATOR or user.kind != UserKind.PERSON:
        raise InvalidRequest("Operators and service accounts cannot log in by a tenant's identity provider.")
    if not is_subject(subject):
        raise InvalidRequest("A subject has 1 to 255 printable ASCII characters.")
    provider = await providers.get_provider(admin.session, user.tenant_id)
    if provider is None:
        raise InvalidRequest("The user's tenant has no identity provider. Set one first.")
    identity = Identity(
        issuer=provider.issuer, subject=subject, tenant_id=user.tenant_id, user_id=user_id, created_ms=admin.now_ms
    )
    await providers.add_identity(admin.session, identity)
    await admin.note(user.tenant_id, "identity.link", f"user:{user_id}", after={"issuer": identity.issuer})
    return identity


async def unlink_identities(admin: Administrator, user_id: int) -> None:
    """The user cannot log in by a provider any more, until they are linked again. Raises as `link_identity`."""
    admin.require_fresh_login()
    user = await get_user(admin, user_id)
    require_power_over(admin, user)
    found = await providers.list_identities(admin.session, user_id)
    for identity in found:
        await admin.session.delete(identity)
    await admin.session.flush()
    if found:
        issuers = sorted({identity.issuer for identity in found})
        await admin.note(user.tenant_id, "identity.unlink", f"user:{user_id}", before={"issuers": issuers})


def record_of(provider: IdentityProvider) -> dict[str, Any]:
    """The fields of a provider for the audit log."""
    return {
        "name": provider.name,
        "issuer": provider.issuer,
        "client_id": provider.client_id,
        "scopes": provider.scopes,
        "role_claim": provider.role_claim,
        "admin_values": providers.admin_values_of(provider),
        "disabled": provider.disabled_ms is not None,
    }
