"""Deletes the contents of calls that are older than their tenant wants, and than the operator allows."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlmodel import col, delete, func, select

from tollkeeper.clock import Clock
from tollkeeper.configuration.models import Plan
from tollkeeper.configuration.plans import read_terms
from tollkeeper.contents.models import StoredContent
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.identity.models import Tenant
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

DAY_MS = 86_400_000
INTERVAL_S = 600.0
CHUNK = 200
"""How many contents one transaction deletes."""

log = structlog.get_logger("tollkeeper.contents")


class ContentRetention:
    """Deletes contents after `max_days`, or sooner if the tenant has set so. `wait` is awaited before each round."""

    def __init__(
        self,
        database: Database,
        *,
        max_days: int,
        clock: Clock,
        wait: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(INTERVAL_S),
        on_run: NoteRun = ignore_run,
    ) -> None:
        self._database = database
        self._max_days = max_days
        self._clock = clock
        self._wait = wait
        self._on_run = on_run
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="content-retention")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def delete_due(self) -> int:
        """Delete all that are due. Returns how many. Raises DatabaseUnavailable."""
        total, tenant_id = 0, 0
        while (following := await self._tenant_after(tenant_id)) is not None:
            tenant_id, days = following
            before_ms = self._clock.now_ms() - min(days or self._max_days, self._max_days) * DAY_MS
            while (count := await self._delete_chunk(tenant_id, before_ms)) > 0:
                total += count
        return total

    async def _tenant_after(self, tenant_id: int) -> tuple[int, int | None] | None:
        """The next tenant that has contents, and its days."""
        stored = StoredContent
        following = select(func.min(stored.tenant_id)).where(col(stored.tenant_id) > tenant_id).scalar_subquery()
        query = select(Tenant.id, Tenant.content_days, Plan.document).where(Tenant.id == following)
        query = query.join(Plan, col(Plan.id) == Tenant.plan_id, isouter=True)
        async with self._database.session() as session:
            found = (await session.exec(query)).first()
        if found is None or found[0] is None:
            return None
        in_plan = read_terms(found[2]).content_days if found[2] is not None else None
        return found[0], min((days for days in (found[1], in_plan) if days is not None), default=None)

    async def _delete_chunk(self, tenant_id: int, before_ms: int) -> int:
        """The oldest of a tenant's contents have the lowest charge ids."""
        stored = StoredContent
        oldest = select(col(stored.charge_id)).where(stored.tenant_id == tenant_id).order_by(col(stored.charge_id))
        due = col(stored.tenant_id) == tenant_id, col(stored.created_ms) < before_ms
        statement = delete(stored).where(*due, col(stored.charge_id).in_(oldest.limit(CHUNK)))
        async with self._database.session() as session:
            return (await session.exec(statement)).rowcount

    async def _run(self) -> None:
        while True:
            await self._wait()
            try:
                with noted(self._on_run, Task.CONTENT_RETENTION):
                    await self.delete_due()
            except DatabaseUnavailable:
                log.warning("contents.not_deleted", reason="the database does not respond")
            except Exception:
                log.exception("contents.not_deleted")
