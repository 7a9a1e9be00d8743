"""Whom a command is about, found by the names that people use."""

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.cli import values
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.quota.changes import Target
from tollkeeper.quota.rules.page import Subject


async def find(session: AsyncSession, email: str | None, tenant: str | None) -> Target:
    """A user by e-mail address, or a tenant by name. Raises NotFound, InvalidRequest."""
    if (email is None) == (tenant is None):
        raise InvalidRequest("Name either a user, by e-mail address, or a tenant, with --tenant; not both.")
    if email is not None:
        return await find_user(session, email)
    return await find_tenant(session, tenant or "")


async def find_user(session: AsyncSession, email: str) -> Target:
    """Raises NotFound, InvalidRequest."""
    user = await accounts.user_with_email(session, values.name(email))
    return Target(Subject(user.tenant_id, user.id), user.email)


async def find_tenant(session: AsyncSession, name: str) -> Target:
    """Raises NotFound, InvalidRequest."""
    tenant = await accounts.tenant_named(session, values.name(name))
    assert tenant.id is not None
    return Target(Subject(tenant.id), f"tenant {tenant.name}")


async def find_members(session: AsyncSession, tenant_name: str) -> list[Target]:
    """Every user of a tenant, whatever their role, disabled ones too. Raises NotFound, InvalidRequest."""
    tenant = await accounts.tenant_named(session, values.name(tenant_name))
    users = await accounts.list_users(session, tenant)
    if not users:
        raise InvalidRequest(f"The tenant {tenant.name} has no users.")
    return [Target(Subject(user.tenant_id, user.id), user.email) for user, _ in users]
