"""Look up the user or tenant that a command changes, by e-mail address or name."""

from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.cli.arguments import parse_name
from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.models import UserGroup
from tollkeeper.quota.changes import Target
from tollkeeper.quota.rules.page import Subject
from tollkeeper.quota.rules.subjects import SubjectKind, parse_template
from tollkeeper.tags import parse_tag
from tollkeeper.tenant_scope import ALL_TENANTS


async def find_target(
    session: AsyncSession,
    email: str | None,
    tenant_name: str | None,
    key_id: str | None = None,
    group_name: str | None = None,
    each: str | None = None,
    tag: str | None = None,
) -> Target:
    """Returns the user with this e-mail address, the tenant with this name or the group, template or tag of it, or the
    API key with this id. Raises NotFound, InvalidRequest.
    """
    if sum(one is not None for one in (email, tenant_name, key_id)) != 1:
        raise InvalidRequest("Give one of: the e-mail address of a user, a tenant with --tenant, a key with --key.")
    if sum(one is not None for one in (group_name, each, tag)) > (tenant_name is not None):
        raise InvalidRequest("A group, a template or a tag needs its tenant, with --tenant; give one of them.")
    if key_id is not None:
        key = await keys.get_key(session, key_id, ALL_TENANTS)
        return Target(Subject(key.tenant_id, key.user_id, SubjectKind.KEY, key.id), f"key {key.id}")
    if email is not None:
        user = await accounts.get_user_by_email(session, parse_name(email))
        return Target(Subject(user.tenant_id, user.id), user.email)
    tenant = await accounts.get_tenant_by_name(session, parse_name(tenant_name or ""))
    assert tenant.id is not None
    if each is not None:
        return Target(parse_template(tenant.id, each), f"each {each} of {tenant.name}")
    if group_name is not None:
        query = select(UserGroup).where(UserGroup.tenant_id == tenant.id, UserGroup.name == parse_name(group_name))
        group = (await session.exec(query)).first()
        if group is None or group.closed_ms is not None:
            raise NotFound(f"The tenant {tenant.name} has no group {group_name}.")
        return Target(Subject(tenant.id, None, SubjectKind.GROUP, str(group.id)), f"group {group.name}")
    if tag is not None:
        name = parse_tag(tag)
        return Target(Subject(tenant.id, None, SubjectKind.TAG, name), f"tag {name}")
    return Target(Subject(tenant.id), f"tenant {tenant.name}")


async def find_members(session: AsyncSession, tenant_name: str) -> list[Target]:
    """Returns every user of a tenant, with any role, including disabled users. Raises NotFound, InvalidRequest."""
    tenant = await accounts.get_tenant_by_name(session, parse_name(tenant_name))
    users = await accounts.list_users(session, tenant)
    if not users:
        raise InvalidRequest(f"The tenant {tenant.name} has no users.")
    return [Target(Subject(user.tenant_id, user.id), user.email) for user, _ in users]
