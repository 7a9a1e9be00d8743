"""The moderation policies of tenants, as they are stored."""

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.configuration.models import ModerationPolicy
from tollkeeper.tenant_scope import TenantScope


async def list_policies(session: AsyncSession, scope: TenantScope) -> dict[int, str]:
    """The document of each policy of the scope, by tenant."""
    query = select(ModerationPolicy).where(scope.condition(col(ModerationPolicy.tenant_id)))
    return {row.tenant_id: row.document for row in (await session.exec(query)).all()}


async def find_policy(session: AsyncSession, tenant_id: int, *, to_change: bool = False) -> ModerationPolicy | None:
    """The policy of a tenant."""
    query = select(ModerationPolicy).where(ModerationPolicy.tenant_id == tenant_id)
    if to_change:
        query = query.with_for_update()
    return (await session.exec(query)).first()
