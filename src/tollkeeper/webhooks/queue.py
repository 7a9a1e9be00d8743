"""The outbox as a queue: which deliveries are due, who sends them, and what follows from each attempt.

A claim is a lease: a delivery whose process dies is due again when the lease ends. So it is sent at least once.
"""

import random
from typing import NamedTuple

from sqlalchemy import ColumnElement, Update
from sqlmodel import and_, col, exists, func, or_, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.webhooks.models import DeliveryStatus, DisabledReason, Webhook, WebhookAttempt, WebhookDelivery

CLAIM_MS = 60_000
"""How long a claimed delivery is left to its claimant: four times as long as a request may take."""
RETRY_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""The pauses between the tries of a delivery: the example of the Standard Webhooks specification, "Deliverability and
reliability". The last try is about 76 hours after the first.
"""
MAX_TRIES = len(RETRY_S) + 1
GIVE_UP_MS = 4 * 86_400_000
"""How long a delivery may wait for its tries, while its webhook is disabled or its receiver fails."""
DISABLE_AFTER_MS = 5 * 86_400_000
"""How long the attempts of a webhook may fail, all of them, until it is disabled."""
FIRST_PAUSE_S, MAX_PAUSE_S = 5, 300
"""How long a webhook sends nothing after a failure: it doubles with each one. So a receiver that is away costs few
requests, and has what waits soon after it is back.
"""
GONE = 410
"""The receiver asks not to be sent anything any more (the same specification, "Delivery success and failure")."""
PENDING = DeliveryStatus.PENDING.value


class Position(NamedTuple):
    """A webhook, as a place in the order in which they take turns."""

    tenant_id: int
    webhook_id: str


FIRST = Position(0, "")


class Claimed(NamedTuple):
    """A delivery that this process sends: attempt `number` in all, and try `tries` since it was put or replayed."""

    webhook: Webhook
    delivery: WebhookDelivery
    number: int
    tries: int


def has_due(now_ms: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether a webhook of any tenant has something to send."""
    has_delivery = exists().where(*_of(Webhook), *_due(now_ms))
    return exists().where(_is_enabled(), col(Webhook.available_ms) <= now_ms, has_delivery)


async def list_due(session: AsyncSession, after: Position, now_ms: int, limit: int) -> list[Webhook]:
    """At most `limit` webhooks that have something to send now: those after this position, then those before it."""
    is_after = or_(
        col(Webhook.tenant_id) > after.tenant_id,
        and_(col(Webhook.tenant_id) == after.tenant_id, col(Webhook.id) > after.webhook_id),
    )
    has_due = exists().where(*_of(Webhook), *_due(now_ms))
    found: list[Webhook] = []
    for is_next in (is_after, ~is_after):
        query = select(Webhook).where(_is_enabled(), col(Webhook.available_ms) <= now_ms, is_next, has_due)
        query = query.order_by(col(Webhook.tenant_id), col(Webhook.id)).limit(limit - len(found))
        found += (await session.exec(query)).all()
        if len(found) >= limit:
            break
    return found


async def claim(session: AsyncSession, webhook: Webhook, now_ms: int, limit: int) -> list[Claimed]:
    """Claim at most `limit` deliveries of a webhook, those that have waited longest first."""
    query = select(WebhookDelivery).where(*_of(webhook), *_due(now_ms)).order_by(col(WebhookDelivery.available_ms))
    claimed = []
    for delivery in (await session.exec(query.limit(limit).with_for_update(skip_locked=True))).all():
        number, tries = delivery.attempts + 1, delivery.tries + 1
        is_same = (
            _is(delivery),
            col(WebhookDelivery.status) == PENDING,
            col(WebhookDelivery.attempts) == delivery.attempts,
        )
        values = {"attempts": number, "tries": tries, "available_ms": now_ms + CLAIM_MS}
        if await _write(session, update(WebhookDelivery).where(*is_same).values(values)):
            claimed.append(Claimed(webhook, delivery, number, tries))
    return claimed


async def note_success(session: AsyncSession, claimed: Claimed, attempt: WebhookAttempt, now_ms: int) -> None:
    """The receiver has accepted the delivery."""
    await _log(session, claimed, attempt)
    values = {"status": DeliveryStatus.DELIVERED.value, "completed_ms": now_ms}
    await _write(session, update(WebhookDelivery).where(_is(claimed.delivery)).values(values))
    has_failed = col(Webhook.failures) > 0
    works = {"failures": 0, "failing_since_ms": None, "available_ms": 0}
    await _write(session, update(Webhook).where(_is_webhook(claimed.webhook), has_failed).values(works))


async def note_failure(
    session: AsyncSession, claimed: Claimed, attempt: WebhookAttempt, now_ms: int
) -> DisabledReason | None:
    """The attempt has failed: the delivery waits for its next try, or is dead. Returns why the webhook was disabled, if
    this attempt has had that effect.
    """
    await _log(session, claimed, attempt)
    delivery, webhook = claimed.delivery, claimed.webhook
    if claimed.tries >= MAX_TRIES:
        values: dict[str, object] = {"status": DeliveryStatus.DEAD.value, "completed_ms": now_ms}
    else:
        values = {"available_ms": now_ms + _with_jitter(RETRY_S[claimed.tries - 1])}
    is_mine = _is(delivery), col(WebhookDelivery.status) == PENDING, col(WebhookDelivery.attempts) == claimed.number
    await _write(session, update(WebhookDelivery).where(*is_mine).values(values))
    fails = {
        "failures": col(Webhook.failures) + 1,
        "failing_since_ms": func.coalesce(Webhook.failing_since_ms, now_ms),
        "available_ms": now_ms + _with_jitter(min(MAX_PAUSE_S, FIRST_PAUSE_S << min(webhook.failures, 10))),
    }
    await _write(session, update(Webhook).where(_is_webhook(webhook)).values(fails))
    since_ms = webhook.failing_since_ms
    if attempt.status == GONE:
        reason = DisabledReason.GONE
    elif since_ms is not None and now_ms - since_ms >= DISABLE_AFTER_MS:
        reason = DisabledReason.FAILING
    else:
        return None
    disabled = {"disabled_ms": now_ms, "disabled_reason": reason.value}
    changed = await _write(session, update(Webhook).where(_is_webhook(webhook), _is_enabled()).values(disabled))
    return reason if changed else None


async def _log(session: AsyncSession, claimed: Claimed, attempt: WebhookAttempt) -> None:
    """Add an attempt to the log, unless its delivery was deleted meanwhile."""
    kept = select(WebhookDelivery.event_id).where(_is(claimed.delivery)).with_for_update()
    if (await session.exec(kept)).first() is not None:
        session.add(attempt)
        await session.flush()


def _with_jitter(seconds: float) -> int:
    """About this time, in milliseconds, so that what has failed together is not tried together."""
    return int(seconds * 1000 * random.uniform(0.9, 1.1))


def _is_enabled() -> ColumnElement[bool]:
    return and_(col(Webhook.disabled_ms).is_(None), col(Webhook.deleted_ms).is_(None))


def _due(now_ms: int | ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
    return col(WebhookDelivery.status) == PENDING, col(WebhookDelivery.available_ms) <= now_ms


def _of(webhook: Webhook | type[Webhook]) -> tuple[ColumnElement[bool], ...]:
    return col(WebhookDelivery.tenant_id) == webhook.tenant_id, col(WebhookDelivery.webhook_id) == webhook.id


def _is(delivery: WebhookDelivery) -> ColumnElement[bool]:
    return and_(
        col(WebhookDelivery.tenant_id) == delivery.tenant_id,
        col(WebhookDelivery.webhook_id) == delivery.webhook_id,
        col(WebhookDelivery.event_id) == delivery.event_id,
    )


def _is_webhook(webhook: Webhook) -> ColumnElement[bool]:
    return and_(col(Webhook.tenant_id) == webhook.tenant_id, col(Webhook.id) == webhook.id)


async def _write(session: AsyncSession, statement: Update) -> int:
    """Run a statement that writes. Returns how many rows. What the session has read stays as it was read."""
    return (await session.exec(statement.execution_options(synchronize_session=False))).rowcount
