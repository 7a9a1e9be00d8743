"""Look up the user or tenant that a command changes, by e-mail address or name."""

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.cli.arguments import parse_name
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.quota.changes import Target
from tollkeeper.quota.rules.page import Subject


async def find_target(session: AsyncSession, email: str | None, tenant_name: str | None) -> Target:
    """Returns the user with this e-mail address, or the tenant with this name. Raises NotFound, InvalidRequest."""
    if (email is None) == (tenant_name is None):
        raise InvalidRequest("Give either the e-mail address of a user or a tenant with --tenant, not both.")
    if email is not None:
        user = await accounts.get_user_by_email(session, parse_name(email))
        return Target(Subject(user.tenant_id, user.id), user.email)
    tenant = await accounts.get_tenant_by_name(session, parse_name(tenant_name or ""))
    assert tenant.id is not None
    return Target(Subject(tenant.id), f"tenant {tenant.name}")


async def find_members(session: AsyncSession, tenant_name: str) -> list[Target]:
    """Returns every user of a tenant, with any role, including disabled users. Raises NotFound, InvalidRequest."""
    tenant = await accounts.get_tenant_by_name(session, parse_name(tenant_name))
    users = await accounts.list_users(session, tenant)
    if not users:
        raise InvalidRequest(f"The tenant {tenant.name} has no users.")
    return [Target(Subject(user.tenant_id, user.id), user.email) for user, _ in users]
