"""Closes the months of all tenants that are over for long enough."""

from sqlalchemy import text

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.usage.statements import TenantStatements

_TENANTS_AFTER = text("SELECT min(id) FROM tenants WHERE id > :tenant_id")


class StatementClosing:
    """Any number of processes may close months: the first one that does decides."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> int:
        """Close every month that can be closed. Returns how many that were. Raises DatabaseUnavailable."""
        closed, tenant_id = 0, 0
        while (following := await self._tenant_after(tenant_id)) is not None:
            tenant_id = following
            while await self._close_next(tenant_id):
                closed += 1
        return closed

    async def _tenant_after(self, tenant_id: int) -> int | None:
        async with self._database.session() as session:
            connection = await session.connection()
            found: int | None = (await connection.execute(_TENANTS_AFTER, {"tenant_id": tenant_id})).scalar()
            return found

    async def _close_next(self, tenant_id: int) -> bool:
        async with self._database.session() as session:
            statements = await TenantStatements.open(session, tenant_id)
            return await statements.close_next(self._clock.now_ms())
