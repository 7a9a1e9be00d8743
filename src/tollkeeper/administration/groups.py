"""Groups of a tenant's users: create, list and close them, and change who is a member."""

from sqlalchemy.exc import IntegrityError
from sqlmodel import col, delete, select, update

from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.tenants import wanted_tenant
from tollkeeper.administration.users import require_power_over
from tollkeeper.errors import InvalidRequest, LedgerConflict, NotFound
from tollkeeper.identity.models import GroupMember, User, UserGroup

MAX_GROUPS_PER_TENANT = 1_000
MAX_GROUPS_PER_USER = 50
"""The ledger reads all groups of a user with the user's row."""


async def create_group(admin: Administrator, tenant_id: int | None, name: str) -> UserGroup:
    """Add a group to a tenant, by default the administrator's own.

    Raises InvalidRequest for a name that is taken, also by a group that is closed, or if the tenant has too many;
    NotFound for a tenant that the administrator may not see.
    """
    owner = await wanted_tenant(admin, tenant_id, to_change=True)
    of_tenant = UserGroup.tenant_id == owner
    names = (await admin.session.exec(select(UserGroup.name).where(of_tenant))).all()
    if name in names:
        raise InvalidRequest("The tenant has, or had, a group of this name. Choose another one.", parameter="name")
    if len(names) >= MAX_GROUPS_PER_TENANT:
        raise InvalidRequest(f"A tenant has at most {MAX_GROUPS_PER_TENANT} groups.")
    group = UserGroup(tenant_id=owner, name=name, created_ms=admin.now_ms)
    admin.session.add(group)
    await admin.session.flush()
    await admin.note(owner, "group.create", target_of(group), after={"name": name})
    return group


async def list_groups(admin: Administrator, tenant_id: int | None, *, after: int, limit: int) -> list[UserGroup]:
    """At most `limit` groups that are not closed, with ids above `after`: of a tenant, or of all that the administrator
    may see. Raises NotFound for a tenant that the administrator may not see.
    """
    if tenant_id is not None:
        await wanted_tenant(admin, tenant_id)
    is_visible = admin.scope.narrow(tenant_id).condition(col(UserGroup.tenant_id))
    query = select(UserGroup).where(is_visible, col(UserGroup.id) > after, col(UserGroup.closed_ms).is_(None))
    return list((await admin.session.exec(query.order_by(col(UserGroup.id)).limit(limit))).all())


async def get_group(admin: Administrator, group_id: int, *, to_change: bool = False) -> UserGroup:
    """A group that is not closed; locked, if it is to be changed. Raises NotFound if the administrator may see none of
    that id.
    """
    is_visible = admin.scope.condition(col(UserGroup.tenant_id))
    query = select(UserGroup).where(UserGroup.id == group_id, is_visible, col(UserGroup.closed_ms).is_(None))
    if to_change:
        query = query.with_for_update()
    group = (await admin.session.exec(query)).first()
    if group is None:
        raise NotFound
    return group


async def find_group(admin: Administrator, tenant_id: int, name: str) -> UserGroup:
    """The group of a tenant with this name, unless it is closed. Raises NotFound."""
    of_tenant = UserGroup.tenant_id == tenant_id, admin.scope.condition(col(UserGroup.tenant_id))
    query = select(UserGroup).where(*of_tenant, UserGroup.name == name, col(UserGroup.closed_ms).is_(None))
    group = (await admin.session.exec(query)).first()
    if group is None:
        raise NotFound(f"The tenant has no group {name}.")
    return group


async def close_group(admin: Administrator, group_id: int) -> None:
    """End a group: it has no members any more, so that no call counts for it from the next reserve on. Its quotas,
    charges and name stay. Raises NotFound.
    """
    group = await get_group(admin, group_id, to_change=True)
    are_its = col(GroupMember.tenant_id) == group.tenant_id, col(GroupMember.group_id) == group.id
    await admin.session.exec(delete(GroupMember).where(*are_its))
    group.closed_ms = admin.now_ms
    await admin.session.flush()
    await admin.note(group.tenant_id, "group.close", target_of(group))


async def list_members(admin: Administrator, group: UserGroup, *, after: int, limit: int) -> list[GroupMember]:
    """At most `limit` members of a group, with user ids above `after`."""
    are_its = GroupMember.tenant_id == group.tenant_id, GroupMember.group_id == group.id
    query = select(GroupMember).where(*are_its, col(GroupMember.user_id) > after)
    return list((await admin.session.exec(query.order_by(col(GroupMember.user_id)).limit(limit))).all())


async def put_member(admin: Administrator, group_id: int, user_id: int, *, is_default: bool) -> GroupMember:
    """Make a user of the tenant a member of a group, or change whether it is the user's default one, of which a user
    has at most one.

    Raises NotFound; Forbidden for a user of a higher role; InvalidRequest if the user is in too many groups;
    LedgerConflict if two requests change the same user at the same time.
    """
    group = await get_group(admin, group_id, to_change=True)
    await _require_user(admin, group, user_id)
    are_theirs = col(GroupMember.tenant_id) == group.tenant_id, col(GroupMember.user_id) == user_id
    memberships = (await admin.session.exec(select(GroupMember).where(*are_theirs))).all()
    if is_default:
        others = update(GroupMember).where(*are_theirs, col(GroupMember.group_id) != group_id)
        await admin.session.exec(others.values(is_default=False))
    member = next((one for one in memberships if one.group_id == group_id), None)
    if member is None:
        if len(memberships) >= MAX_GROUPS_PER_USER:
            raise InvalidRequest(f"A user is in at most {MAX_GROUPS_PER_USER} groups.")
        member = GroupMember(tenant_id=group.tenant_id, group_id=group_id, user_id=user_id)
        admin.session.add(member)
    member.is_default = is_default
    try:
        await admin.session.flush()
    except IntegrityError as error:
        raise LedgerConflict("The groups of this user were changed at this moment. Try again.") from error
    after = {"user_id": user_id, "default": is_default}
    await admin.note(group.tenant_id, "group.put_member", target_of(group), after=after)
    return member


async def remove_member(admin: Administrator, group_id: int, user_id: int) -> None:
    """End a membership. Calls in flight are settled on the quotas that they hold on. Raises NotFound; Forbidden for a
    user of a higher role.
    """
    group = await get_group(admin, group_id, to_change=True)
    await _require_user(admin, group, user_id)
    of_group = col(GroupMember.tenant_id) == group.tenant_id, col(GroupMember.group_id) == group_id
    is_it = *of_group, col(GroupMember.user_id) == user_id
    removed = await admin.session.exec(delete(GroupMember).where(*is_it))
    if removed.rowcount == 0:
        raise NotFound
    await admin.note(group.tenant_id, "group.remove_member", target_of(group), after={"user_id": user_id})


async def _require_user(admin: Administrator, group: UserGroup, user_id: int) -> None:
    """Raise NotFound unless the user is of the group's tenant; Forbidden for one of a higher role."""
    query = select(User).where(User.id == user_id, User.tenant_id == group.tenant_id)
    user = (await admin.session.exec(query)).first()
    if user is None or user.erased_at is not None:
        raise NotFound
    require_power_over(admin, user)


def target_of(group: UserGroup) -> str:
    """How the audit log names a group."""
    return f"group:{group.id}"
