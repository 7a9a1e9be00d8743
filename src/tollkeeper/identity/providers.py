"""The OpenID providers of tenants, and the identities that users have there."""

import msgspec
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.identity.domains import normalize_domain
from tollkeeper.identity.models import Identity, IdentityProvider, Tenant, TenantDomain
from tollkeeper.identity.oidc.client import Registration


async def get_provider(session: AsyncSession, tenant_id: int, *, to_change: bool = False) -> IdentityProvider | None:
    """The provider of a tenant, if it has one; locked, if it is to be changed."""
    query = select(IdentityProvider).where(IdentityProvider.tenant_id == tenant_id)
    return (await session.exec(query.with_for_update() if to_change else query)).first()


async def find_enabled_provider(session: AsyncSession, name: str) -> IdentityProvider:
    """The provider of this name. Raises NotFound also for one that is disabled, or whose tenant is."""
    query = (
        select(IdentityProvider)
        .join(Tenant, col(Tenant.id) == IdentityProvider.tenant_id)
        .where(IdentityProvider.name == name)
        .where(col(IdentityProvider.disabled_ms).is_(None), col(Tenant.disabled_at).is_(None))
    )
    provider = (await session.exec(query)).first()
    if provider is None:
        raise NotFound("There is no identity provider with this name.")
    return provider


async def find_enabled_provider_of(session: AsyncSession, domain: str) -> IdentityProvider | None:
    """The provider of the tenant that owns a domain of e-mail addresses, unless one of the two is disabled."""
    try:
        name = normalize_domain(domain)
    except InvalidRequest:
        return None
    query = (
        select(IdentityProvider)
        .join(TenantDomain, col(TenantDomain.tenant_id) == IdentityProvider.tenant_id)
        .join(Tenant, col(Tenant.id) == IdentityProvider.tenant_id)
        .where(TenantDomain.domain == name)
        .where(col(IdentityProvider.disabled_ms).is_(None), col(Tenant.disabled_at).is_(None))
    )
    return (await session.exec(query)).first()


def seal_secret(keys: DataKeys, provider: IdentityProvider, secret: str) -> bytes:
    """Encrypt a client's secret. It is readable only for the same tenant, issuer and client."""
    return keys.seal(Purpose.IDENTITY, secret.encode(), _place(provider))


def registration_of(keys: DataKeys, provider: IdentityProvider) -> Registration:
    """This server as a client of the provider, with its secret."""
    sealed = provider.sealed_client_secret
    secret = keys.unseal(Purpose.IDENTITY, sealed, _place(provider)).decode() if sealed is not None else None
    return Registration(provider.tenant_id, provider.name, provider.issuer, provider.client_id, provider.scopes, secret)


def admin_values_of(provider: IdentityProvider) -> list[str]:
    """The values of the role claim that make a tenant's administrator."""
    return msgspec.json.decode(provider.admin_values, type=list[str]) if provider.admin_values else []


async def add_identity(session: AsyncSession, identity: Identity) -> None:
    """Raises InvalidRequest if the subject is linked to a user already."""
    session.add(identity)
    try:
        await session.flush()
    except IntegrityError:
        raise InvalidRequest("This subject is linked to a user already.") from None


async def list_identities(session: AsyncSession, user_id: int) -> list[Identity]:
    """The identities of a user, the oldest first."""
    query = select(Identity).where(Identity.user_id == user_id)
    return list((await session.exec(query.order_by(col(Identity.created_ms), col(Identity.subject)))).all())


def _place(provider: IdentityProvider) -> str:
    return f"identity_providers/{provider.tenant_id}/{provider.client_id}/{provider.issuer}"
