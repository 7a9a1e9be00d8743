"""The types of events, and the one way to put an event in the outbox."""

import json
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any

from sqlmodel import col, func, literal, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.database.upsert import insert_into
from tollkeeper.quota.time_sorted_ids import new_id
from tollkeeper.webhooks.models import Webhook, WebhookDelivery

EVENT_PREFIX = "evt"


class EventType(StrEnum):
    """What tenants can be notified of. Those of jobs are put in the outbox by a trigger of the table of jobs."""

    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    BATCH_COMPLETED = "batch.completed"
    BATCH_FAILED = "batch.failed"
    BATCH_CANCELLED = "batch.cancelled"
    BATCH_EXPIRED = "batch.expired"
    QUOTA_ALERT = "quota.alert"
    QUOTA_REQUESTED = "quota.requested"
    QUOTA_GRANTED = "quota.granted"
    QUOTA_DECLINED = "quota.declined"
    WEBHOOK_DISABLED = "webhook.disabled"
    """Another webhook of the tenant was disabled, because its receiver has failed for days or has answered 410."""


TEST_EVENT = "webhook.test"
"""It is sent at an administrator's request, whatever the types of the webhook are."""


async def put_event(
    session: AsyncSession,
    tenant_id: int,
    event_type: EventType,
    data: Mapping[str, Any],
    now_ms: int,
    *,
    user_id: int | None = None,
    event_id: str | None = None,
) -> None:
    """Put an event in the outbox of each webhook of the tenant that takes it, in the session's transaction.

    `data` must have no secrets and nothing that users wrote: ids, states and numbers. With `user_id`, the erasure of
    this user deletes it. The same `event_id` (`evt_` and 32 hex digits; by default a new one) is put once.
    """
    event_id = event_id if event_id is not None else new_id(EVENT_PREFIX)
    row = [literal(event_id), literal(event_type.value), literal(user_id), literal(json.dumps(data))]
    takes_it = func.replace(Webhook.events, f",{event_type.value},", "") != Webhook.events
    source = select(Webhook.tenant_id, Webhook.id, *row, *[literal(now_ms)] * 3).where(
        Webhook.tenant_id == tenant_id, col(Webhook.disabled_ms).is_(None), col(Webhook.deleted_ms).is_(None), takes_it
    )
    columns = ["tenant_id", "webhook_id", "event_id", "event_type", "user_id", "data"]
    columns += ["created_ms", "since_ms", "available_ms"]
    connection = await session.connection()
    statement = insert_into(connection, WebhookDelivery).from_select(columns, source, include_defaults=False)
    await connection.execute(statement.on_conflict_do_nothing())


def joined(types: Collection[str]) -> str:
    """Types as a webhook's row has them."""
    return f",{','.join(sorted(types))},"


def split(events: str) -> list[str]:
    """The types of a webhook's row."""
    return events.strip(",").split(",")
