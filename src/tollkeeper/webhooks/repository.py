"""Reads and writes webhooks and deliveries for administrators. Every query takes a scope."""

from typing import NamedTuple

from sqlalchemy import ColumnElement, tuple_
from sqlmodel import and_, col, func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.tenant_scope import TenantScope
from tollkeeper.webhooks.models import Webhook, WebhookAttempt, WebhookDelivery

MAX_ATTEMPTS = 50
"""How many attempts of a delivery are listed, the newest ones."""


class DeliveryPosition(NamedTuple):
    """A delivery, as a place in the list of its webhook."""

    created_ms: int
    event_id: str


async def find(
    session: AsyncSession, scope: TenantScope, webhook_id: str, *, to_change: bool = False
) -> Webhook | None:
    """The webhook of this id in the scope; locked, if it is to be changed."""
    kept = col(Webhook.deleted_ms).is_(None)
    query = select(Webhook).where(Webhook.id == webhook_id, kept, scope.condition(col(Webhook.tenant_id)))
    return (await session.exec(query.with_for_update() if to_change else query)).first()


async def list_page(session: AsyncSession, scope: TenantScope, *, after: str | None, limit: int) -> list[Webhook]:
    """At most `limit` webhooks of the scope by id, which is the order of their creation."""
    query = select(Webhook).where(scope.condition(col(Webhook.tenant_id)), col(Webhook.deleted_ms).is_(None))
    if after is not None:
        query = query.where(col(Webhook.id) > after)
    return list((await session.exec(query.order_by(col(Webhook.id)).limit(limit))).all())


async def count(session: AsyncSession, tenant_id: int) -> int:
    """How many webhooks a tenant has, with those that are about to be deleted."""
    return (await session.exec(select(func.count()).where(Webhook.tenant_id == tenant_id))).one()


async def find_delivery(
    session: AsyncSession, webhook: Webhook, event_id: str, *, to_change: bool = False
) -> WebhookDelivery | None:
    """The delivery of an event to a webhook; locked, if it is to be changed."""
    query = select(WebhookDelivery).where(_of(webhook), WebhookDelivery.event_id == event_id)
    return (await session.exec(query.with_for_update() if to_change else query)).first()


async def find_pending(session: AsyncSession, webhook: Webhook, event_type: str) -> WebhookDelivery | None:
    """A delivery of this type that has not ended."""
    is_pending = WebhookDelivery.status == "pending", WebhookDelivery.event_type == event_type
    return (await session.exec(select(WebhookDelivery).where(_of(webhook), *is_pending).limit(1))).first()


async def list_deliveries(
    session: AsyncSession, webhook: Webhook, *, status: str | None, before: DeliveryPosition | None, limit: int
) -> list[WebhookDelivery]:
    """At most `limit` deliveries of a webhook, the newest first."""
    order = col(WebhookDelivery.created_ms), col(WebhookDelivery.event_id)
    query = select(WebhookDelivery).where(_of(webhook))
    if status is not None:
        query = query.where(WebhookDelivery.status == status)
    if before is not None:
        query = query.where(tuple_(*order) < tuple(before))
    query = query.order_by(*(column.desc() for column in order)).limit(limit)
    return list((await session.exec(query)).all())


async def list_attempts(session: AsyncSession, delivery: WebhookDelivery) -> list[WebhookAttempt]:
    """The last attempts of a delivery, the newest first."""
    is_its = (
        WebhookAttempt.tenant_id == delivery.tenant_id,
        WebhookAttempt.webhook_id == delivery.webhook_id,
        WebhookAttempt.event_id == delivery.event_id,
    )
    query = select(WebhookAttempt).where(*is_its).order_by(col(WebhookAttempt.number).desc()).limit(MAX_ATTEMPTS)
    return list((await session.exec(query)).all())


def _of(webhook: Webhook) -> ColumnElement[bool]:
    return and_(col(WebhookDelivery.tenant_id) == webhook.tenant_id, col(WebhookDelivery.webhook_id) == webhook.id)
