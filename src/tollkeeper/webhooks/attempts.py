"""Makes one attempt of a delivery, and notes how it went."""

import time
from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum

import orjson
import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.audit_log.log import Act, AuditLog
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import OutboundError, Overloaded, SealBroken
from tollkeeper.outbound.client import OutboundClient
from tollkeeper.webhooks import queue
from tollkeeper.webhooks.events import EventType, put_event
from tollkeeper.webhooks.models import DisabledReason, Webhook, WebhookAttempt, WebhookDelivery
from tollkeeper.webhooks.queue import Claimed
from tollkeeper.webhooks.secrets import WebhookSecrets
from tollkeeper.webhooks.signatures import signed_headers

HEADERS = {"Content-Type": "application/json", "User-Agent": "Tollkeeper-Webhooks"}
ACTOR = "webhooks"
"""How the audit log names what disables a webhook."""

log = structlog.get_logger("tollkeeper.webhooks")


class Result(StrEnum):
    """How an attempt ended. `dead`: it has failed, and was the last one."""

    DELIVERED = "delivered"
    FAILED = "failed"
    DEAD = "dead"


class Attempts:
    """Sends deliveries that were claimed. `results` counts the attempts of this process, `disabled` the webhooks that
    they have disabled.
    """

    def __init__(
        self, database: Database, outbound: OutboundClient, secrets: WebhookSecrets, audit_log: AuditLog, clock: Clock
    ) -> None:
        self._database = database
        self._outbound = outbound
        self._secrets = secrets
        self._audit_log = audit_log
        self._clock = clock
        self.results: Counter[Result] = Counter()
        self.disabled = 0

    async def make(self, claimed: Claimed) -> None:
        """Send a delivery, and note how that went. Raises DatabaseUnavailable: it is sent again after its lease."""
        started_ms, started = self._clock.now_ms(), time.monotonic()
        status, error = await self._send(claimed, started_ms)
        delivery = claimed.delivery
        attempt = WebhookAttempt(
            tenant_id=delivery.tenant_id,
            webhook_id=delivery.webhook_id,
            event_id=delivery.event_id,
            number=claimed.number,
            started_ms=started_ms,
            duration_ms=round((time.monotonic() - started) * 1000),
            status=status,
            error=error,
        )
        is_success = status is not None and 200 <= status < 300
        disabled: DisabledReason | None = None
        async with self._database.session() as session:
            now_ms = self._clock.now_ms()
            if is_success:
                await queue.note_success(session, claimed, attempt, now_ms)
            else:
                disabled = await queue.note_failure(session, claimed, attempt, now_ms)
            if disabled is not None:
                await self._note_disabled(session, claimed.webhook, disabled, now_ms)
        self._count(claimed, disabled, is_success=is_success)

    async def _send(self, claimed: Claimed, now_ms: int) -> tuple[int | None, str | None]:
        """The status of the response; or None, and why there was none."""
        webhook, body = claimed.webhook, body_of(claimed.delivery)
        try:
            url, valid = self._secrets.url(webhook), self._secrets.valid_secrets(webhook, now_ms)
            headers = HEADERS | signed_headers(valid, claimed.delivery.event_id, now_ms // 1000, body)
            response = await self._outbound.post(url, body, headers, tenant_id=webhook.tenant_id, reads_body=False)
        except (OutboundError, Overloaded, SealBroken) as error:
            return None, error.detail
        return response.status, None

    async def _note_disabled(
        self, session: AsyncSession, webhook: Webhook, reason: DisabledReason, now_ms: int
    ) -> None:
        """Tell the tenant: in the audit log, and by its other webhooks."""
        data = {"webhook_id": webhook.id, "reason": reason.value}
        act = Act(webhook.tenant_id, ACTOR, "webhook.disable", f"webhook:{webhook.id}", after=data)
        await self._audit_log.add(session, act, now_ms)
        await put_event(session, webhook.tenant_id, EventType.WEBHOOK_DISABLED, data, now_ms)

    def _count(self, claimed: Claimed, disabled: DisabledReason | None, *, is_success: bool) -> None:
        if is_success:
            self.results[Result.DELIVERED] += 1
        else:
            self.results[Result.DEAD if claimed.tries >= queue.MAX_TRIES else Result.FAILED] += 1
        if disabled is not None:
            self.disabled += 1
            log.warning("webhooks.disabled", tenant_id=claimed.webhook.tenant_id, reason=disabled.value)


def body_of(delivery: WebhookDelivery) -> bytes:
    """The body of each attempt of a delivery, as the specification recommends it: type, time of the event, data."""
    created = datetime.fromtimestamp(delivery.created_ms / 1000, UTC).isoformat(timespec="milliseconds")
    document = {
        "type": delivery.event_type,
        "timestamp": created.replace("+00:00", "Z"),
        "data": {"tenant_id": delivery.tenant_id, **orjson.loads(delivery.data)},
    }
    return orjson.dumps(document)
