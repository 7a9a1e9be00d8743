"""Which tenants have turned content logging on."""

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

_QUERY = text("SELECT id FROM tenants WHERE content_logging")


async def list_logging_tenants(session: AsyncSession) -> list[int]:
    """The ids of these tenants, in no order."""
    return list((await (await session.connection()).execute(_QUERY)).scalars())
