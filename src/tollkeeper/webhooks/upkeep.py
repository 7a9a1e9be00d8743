"""What has to be done beside the sending: give up what has waited too long, delete what is old, count the rest."""

import asyncio
from typing import Any, NamedTuple

import structlog
from sqlmodel import and_, col, delete, exists, func, select, update

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted
from tollkeeper.webhooks.models import DeliveryStatus, Webhook, WebhookDelivery
from tollkeeper.webhooks.queue import GIVE_UP_MS, PENDING

INTERVAL_S = 15.0
DAY_MS = 86_400_000
CHUNK = 200
"""How many deliveries one transaction deletes."""
MAX_COUNTED = 100_000


class OutboxState(NamedTuple):
    """The outbox of the whole installation, as of the last run.

    `pending` counts at most MAX_COUNTED. `overdue_s` is how long the oldest delivery of a webhook that works has been
    due, in seconds: it is sent within seconds, while a process sends. `failing` and `disabled` count webhooks.
    """

    pending: int = 0
    overdue_s: float = 0.0
    failing: int = 0
    disabled: int = 0


log = structlog.get_logger("tollkeeper.webhooks")


class WebhookUpkeep:
    """Runs beside the sender. Deliveries that ended are kept for `days`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        days: int,
        interval_s: float = INTERVAL_S,
        on_run: NoteRun = ignore_run,
    ) -> None:
        self._database = database
        self._clock = clock
        self._kept_ms = days * DAY_MS
        self._interval_s = min(interval_s, INTERVAL_S)
        self._on_run = on_run
        self._task: asyncio.Task[None] | None = None
        self.state = OutboxState()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="webhooks-upkeep")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run_once(self) -> None:
        """Raises DatabaseUnavailable."""
        await self._give_up()
        await self._delete_old()
        await self._delete_webhooks()
        self.state = await self._count()

    async def _give_up(self) -> None:
        now_ms = self._clock.now_ms()
        is_late = col(WebhookDelivery.status) == PENDING, col(WebhookDelivery.since_ms) <= now_ms - GIVE_UP_MS
        values = {"status": DeliveryStatus.DEAD.value, "completed_ms": now_ms}
        async with self._database.session() as session:
            await session.exec(update(WebhookDelivery).where(*is_late).values(values))

    async def _delete_old(self) -> None:
        before_ms = self._clock.now_ms() - self._kept_ms
        while await self._delete_chunk(col(WebhookDelivery.completed_ms) < before_ms) >= CHUNK:
            pass

    async def _delete_webhooks(self) -> None:
        """Delete the deliveries of webhooks that were deleted, then these."""
        async with self._database.session() as session:
            deleted = (await session.exec(select(Webhook).where(col(Webhook.deleted_ms).is_not(None)))).all()
        for webhook in deleted:
            of_webhook = (
                col(WebhookDelivery.tenant_id) == webhook.tenant_id,
                col(WebhookDelivery.webhook_id) == webhook.id,
            )
            while await self._delete_chunk(and_(*of_webhook)) >= CHUNK:
                pass
            is_webhook = col(Webhook.tenant_id) == webhook.tenant_id, col(Webhook.id) == webhook.id
            async with self._database.session() as session:
                await session.exec(delete(Webhook).where(*is_webhook, ~exists().where(*of_webhook)))

    async def _delete_chunk(self, condition: Any) -> int:
        """Delete some deliveries, with their attempts. Returns how many."""
        keys = WebhookDelivery.tenant_id, WebhookDelivery.webhook_id, WebhookDelivery.event_id
        async with self._database.session() as session:
            rows = (await session.exec(select(*keys).where(condition).limit(CHUNK))).all()
            for row in rows:
                is_row = [col(key) == value for key, value in zip(keys, row, strict=True)]
                await session.exec(delete(WebhookDelivery).where(*is_row))
        return len(rows)

    async def _count(self) -> OutboxState:
        now_ms = self._clock.now_ms()
        some = select(WebhookDelivery.event_id).where(WebhookDelivery.status == PENDING).limit(MAX_COUNTED).subquery()
        works = Webhook.failures == 0, col(Webhook.disabled_ms).is_(None), col(Webhook.deleted_ms).is_(None)
        oldest = select(func.min(WebhookDelivery.available_ms)).join(
            Webhook,
            and_(col(Webhook.tenant_id) == WebhookDelivery.tenant_id, col(Webhook.id) == WebhookDelivery.webhook_id),
        )
        oldest = oldest.where(WebhookDelivery.status == PENDING, *works)
        kept = col(Webhook.deleted_ms).is_(None)
        is_failing = kept, Webhook.failures > 0, col(Webhook.disabled_ms).is_(None)
        is_disabled = kept, col(Webhook.disabled_ms).is_not(None)
        async with self._database.session() as session:
            pending = (await session.exec(select(func.count()).select_from(some))).one()
            oldest_ms = (await session.exec(oldest)).one()
            failing = (await session.exec(select(func.count()).select_from(Webhook).where(*is_failing))).one()
            disabled = (await session.exec(select(func.count()).select_from(Webhook).where(*is_disabled))).one()
        overdue_s = max(0, now_ms - oldest_ms) / 1000 if oldest_ms is not None else 0.0
        return OutboxState(pending, overdue_s, failing, disabled)

    async def _run(self) -> None:
        while True:
            try:
                with noted(self._on_run, Task.WEBHOOKS):
                    await self.run_once()
            except DatabaseUnavailable:
                log.warning("webhooks.upkeep_failed", reason="the database does not respond")
            except Exception:
                log.exception("webhooks.upkeep_failed")
            await asyncio.sleep(self._interval_s)
