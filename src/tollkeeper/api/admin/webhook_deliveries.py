"""Deliveries of webhooks: what was sent, how it went, and to send it again."""

from typing import Annotated, Any, Literal

import msgspec
import orjson
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel

from tollkeeper.administration import webhooks
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import Limit, Page
from tollkeeper.api.admin.webhooks import WebhookId
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.webhooks import repository
from tollkeeper.webhooks.attempts import body_of
from tollkeeper.webhooks.models import DeliveryStatus, WebhookAttempt, WebhookDelivery
from tollkeeper.webhooks.repository import DeliveryPosition

router = APIRouter(prefix="/admin/webhooks/{webhook_id}", tags=["admin"])

EXAMPLE_ID = "evt_0123456789abcdef0123456789abcdef"
DeliveryId = Annotated[str, Path(max_length=40, examples=[EXAMPLE_ID])]
Status = Literal["pending", "delivered", "dead"]
DeliveryCursor = Annotated[
    str | None,
    Query(max_length=60, pattern=r"^\d{1,15}-evt_[0-9a-f]{32}$", examples=[f"1812000000000-{EXAMPLE_ID}"]),
]


class EmptyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An empty object, or no body."""


class DeliverySummary(BaseModel):
    """An event for a webhook. Its id is that of the event, which each attempt has as `webhook-id`.

    `attempts` counts all requests. `next_attempt_at` is null once the delivery has ended.
    """

    id: str
    event_type: str
    status: Status
    attempts: int
    created_at: Moment
    next_attempt_at: Moment | None
    completed_at: Moment | None


class AttemptResponse(BaseModel):
    """One request. `status` is that of the response, null if there was none; `error` says why. Its body is not kept."""

    number: int
    started_at: Moment
    duration_ms: int
    status: int | None
    error: str | None


class DeliveryResponse(DeliverySummary):
    """A delivery with the body of its requests, and the last 50 of these, the newest first."""

    body: dict[str, Any]
    attempt_log: list[AttemptResponse]


@router.post(
    "/test",
    status_code=202,
    response_model=DeliverySummary,
    openapi_extra=json_body(EmptyRequest, {}, required=False),
    summary="Send a test event to a webhook",
)
async def send_test_event(webhook_id: WebhookId, caller: TenantAdmin) -> Response:
    """Its type is `webhook.test`. It is sent within seconds: read its delivery to see how it went."""

    async def send(_: EmptyRequest) -> DeliverySummary:
        webhook = await webhooks.get_webhook(caller.admin, webhook_id, to_change=True)
        return DeliverySummary(**_summary(await webhooks.send_test(caller.admin, webhook)))

    return await caller.once(EmptyRequest, send, status=202)


@router.get("/deliveries", summary="The deliveries of a webhook")
async def list_webhook_deliveries(
    webhook_id: WebhookId,
    caller: TenantAdmin,
    status: Annotated[Status | None, Query(examples=["dead"])] = None,
    limit: Limit = 20,
    cursor: DeliveryCursor = None,
) -> Page[DeliverySummary]:
    """The newest first. They are kept for TOLLKEEPER_WEBHOOK_DAYS after their end."""
    webhook = await webhooks.get_webhook(caller.admin, webhook_id)
    found = await webhooks.list_deliveries(
        caller.admin, webhook, status=status, before=_position(cursor), limit=limit + 1
    )
    page, last = found[:limit], found[limit - 1] if len(found) > limit else None
    return Page(
        data=[DeliverySummary(**_summary(one)) for one in page],
        next_cursor=f"{last.created_ms}-{last.event_id}" if last is not None else None,
    )


@router.get("/deliveries/{delivery_id}", summary="A delivery of a webhook, with its attempts")
async def get_webhook_delivery(webhook_id: WebhookId, delivery_id: DeliveryId, caller: TenantAdmin) -> DeliveryResponse:
    webhook = await webhooks.get_webhook(caller.admin, webhook_id)
    found = await webhooks.get_delivery(caller.admin, webhook, delivery_id)
    attempts = await repository.list_attempts(caller.admin.session, found)
    return DeliveryResponse(
        **_summary(found), body=orjson.loads(body_of(found)), attempt_log=[_attempt(one) for one in attempts]
    )


@router.post(
    "/deliveries/{delivery_id}/replay",
    status_code=202,
    response_model=DeliverySummary,
    openapi_extra=json_body(EmptyRequest, {}, required=False),
    summary="Send an event to a webhook again",
)
async def replay_webhook_delivery(webhook_id: WebhookId, delivery_id: DeliveryId, caller: TenantAdmin) -> Response:
    """With the id that it had: a receiver that has handled this id ignores it. It is tried as often as a new one."""

    async def replay(_: EmptyRequest) -> DeliverySummary:
        webhook = await webhooks.get_webhook(caller.admin, webhook_id, to_change=True)
        return DeliverySummary(**_summary(await webhooks.replay(caller.admin, webhook, delivery_id)))

    return await caller.once(EmptyRequest, replay, status=202)


def _position(cursor: str | None) -> DeliveryPosition | None:
    if cursor is None:
        return None
    created_ms, _, event_id = cursor.partition("-")
    return DeliveryPosition(int(created_ms), event_id)


def _summary(delivery: WebhookDelivery) -> dict[str, Any]:
    is_pending = delivery.status == DeliveryStatus.PENDING
    return {
        "id": delivery.event_id,
        "event_type": delivery.event_type,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "created_at": iso(delivery.created_ms),
        "next_attempt_at": iso(delivery.available_ms) if is_pending else None,
        "completed_at": iso(delivery.completed_ms),
    }


def _attempt(attempt: WebhookAttempt) -> AttemptResponse:
    return AttemptResponse(
        number=attempt.number,
        started_at=iso(attempt.started_ms),
        duration_ms=attempt.duration_ms,
        status=attempt.status,
        error=attempt.error,
    )
