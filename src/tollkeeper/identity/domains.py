"""The domains of e-mail addresses that belong to tenants. Operators verify them."""

import re

from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.identity.models import TenantDomain

MAX_DOMAIN_LENGTH = 253
_DOMAIN = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")


def normalize_domain(text: str) -> str:
    """The form in which domains are stored and compared: lower case, ASCII (RFC 5890). Raises InvalidRequest."""
    try:
        domain = text.strip().rstrip(".").lower().encode("idna").decode() if len(text) <= MAX_DOMAIN_LENGTH else ""
    except UnicodeError:
        domain = ""
    if not _DOMAIN.fullmatch(domain):
        raise InvalidRequest("That is not a domain name, such as example.com.")
    return domain


async def add_domain(session: AsyncSession, tenant_id: int, text: str, now_ms: int) -> TenantDomain:
    """Raises InvalidRequest for a domain that is not valid, or is a tenant's already."""
    row = TenantDomain(domain=normalize_domain(text), tenant_id=tenant_id, created_ms=now_ms)
    session.add(row)
    try:
        await session.flush()
    except IntegrityError:
        raise InvalidRequest(f"The domain {row.domain} belongs to a tenant already.") from None
    return row


async def list_domains(session: AsyncSession, tenant_id: int) -> list[TenantDomain]:
    """The domains of a tenant, by name."""
    query = select(TenantDomain).where(TenantDomain.tenant_id == tenant_id).order_by(col(TenantDomain.domain))
    return list((await session.exec(query)).all())


async def remove_domain(session: AsyncSession, tenant_id: int, text: str) -> None:
    """Raises NotFound unless the domain is this tenant's."""
    try:
        domain = normalize_domain(text)
    except InvalidRequest:
        raise NotFound from None
    query = select(TenantDomain).where(TenantDomain.domain == domain, TenantDomain.tenant_id == tenant_id)
    row = (await session.exec(query)).first()
    if row is None:
        raise NotFound
    await session.delete(row)
    await session.flush()


async def owns_domain_of(session: AsyncSession, tenant_id: int, email: str) -> bool:
    """Whether the domain of an e-mail address is this tenant's."""
    try:
        domain = normalize_domain(email.rpartition("@")[2])
    except InvalidRequest:
        return False
    query = select(TenantDomain).where(TenantDomain.domain == domain, TenantDomain.tenant_id == tenant_id)
    return (await session.exec(query)).first() is not None
