"""Which tenants have turned the response cache on."""

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

_QUERY = text("SELECT id, cache_scope FROM tenants WHERE cache_scope IS NOT NULL")


async def list_cache_scopes(session: AsyncSession) -> dict[int, str]:
    """The scope of the cache of each of these tenants."""
    rows = (await (await session.connection()).execute(_QUERY)).all()
    return {row.id: row.cache_scope for row in rows}
