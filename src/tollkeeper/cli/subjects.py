"""Whom a command is about, found by the names that people use."""

from dataclasses import dataclass

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.cli import values
from tollkeeper.errors import InvalidRequest
from tollkeeper.identity import accounts
from tollkeeper.quota import queries
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import Subject
from tollkeeper.quota.rules.windows import Period


@dataclass(frozen=True, slots=True)
class Target:
    """Whose quota, and what to call them."""

    subject: Subject
    label: str


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


async def only_window(session: AsyncSession, target: Target, unit: Unit) -> Period:
    """The window of the one quota that the target has in this unit. Raises InvalidRequest unless there is just one."""
    periods = [quota.key.period for quota in await queries.quotas_of(session, target.subject) if quota.key.unit is unit]
    if len(periods) == 1:
        return periods[0]
    noun = "token quota" if unit is Unit.TOKENS else "money quota"
    if not periods:
        raise InvalidRequest(f"{target.label} has no {noun} yet: say for which window.")
    raise InvalidRequest(f"{target.label} has more than one {noun} ({', '.join(periods)}): say for which window.")
