"""The tags that a tenant declares."""

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.identity.tag_models import TagName


async def declared_tags(session: AsyncSession, tenant_id: int) -> list[tuple[str, bool]]:
    """The names of the tags that calls of the tenant may have, in their order, and whether each is required."""
    query = select(TagName.name, TagName.is_required)
    is_declared = TagName.tenant_id == tenant_id, col(TagName.closed_ms).is_(None)
    return list((await session.exec(query.where(*is_declared).order_by(col(TagName.name)))).all())
