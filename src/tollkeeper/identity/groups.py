"""The groups of a user."""

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.identity.models import GroupMember, UserGroup
from tollkeeper.principal import Principal


async def groups_of(session: AsyncSession, caller: Principal) -> list[tuple[str, bool]]:
    """The names of the caller's groups, in their order, and whether each is the default one."""
    query = (
        select(UserGroup.name, GroupMember.is_default)
        .join(GroupMember, col(GroupMember.group_id) == UserGroup.id)
        .where(GroupMember.tenant_id == caller.tenant_id, GroupMember.user_id == caller.user_id)
    )
    return list((await session.exec(query.order_by(col(UserGroup.name)))).all())
