"""The tables of webhooks and of their outbox. Times are milliseconds since the epoch, UTC."""

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKeyConstraint, LargeBinary, Text
from sqlmodel import Field, SQLModel


class DeliveryStatus(StrEnum):
    """`dead`: it was tried as often, or for as long, as it is tried."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


class DisabledReason(StrEnum):
    """Why a webhook is disabled. `failing`: no delivery has succeeded for days; `gone`: the receiver answered 410."""

    ADMINISTRATOR = "administrator"
    FAILING = "failing"
    GONE = "gone"


class Webhook(SQLModel, table=True):
    """A URL of a tenant, and which events are sent there.

    The URL is encrypted, because many receivers tell their senders by a secret part of it. `events` are types between
    commas, with one at each end. Until `previous_until_ms`, the previous secret signs, too. `failures` counts the
    attempts since the last success, the first of which was at `failing_since_ms`; nothing is sent before
    `available_ms`. One with `deleted_ms` is not shown any more, and deleted in the background.
    """

    __tablename__ = "webhooks"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    id: str = Field(primary_key=True, max_length=40)
    sealed_url: bytes = Field(sa_type=LargeBinary, repr=False)
    description: str = Field(max_length=200)
    events: str = Field(max_length=2000)
    sealed_secret: bytes = Field(sa_type=LargeBinary, repr=False)
    sealed_previous: bytes | None = Field(default=None, sa_type=LargeBinary, repr=False)
    previous_until_ms: int | None = Field(default=None, sa_type=BigInteger)
    disabled_ms: int | None = Field(default=None, sa_type=BigInteger)
    disabled_reason: str | None = Field(default=None, max_length=20)
    failures: int = 0
    failing_since_ms: int | None = Field(default=None, sa_type=BigInteger)
    available_ms: int = Field(default=0, sa_type=BigInteger)
    created_ms: int = Field(sa_type=BigInteger)
    deleted_ms: int | None = Field(default=None, sa_type=BigInteger)


class WebhookDelivery(SQLModel, table=True):
    """An event for one webhook: a row of the outbox. `data` is a JSON object, and has no secrets.

    `user_id` is the user whose event it is, if it is one's. `attempts` counts all attempts; `tries` those since
    `since_ms`, which is when the event was put here, or replayed. It is tried next at `available_ms`; while one tries,
    that is when another may.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "webhook_id"], ["webhooks.tenant_id", "webhooks.id"]),)

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    webhook_id: str = Field(primary_key=True, max_length=40)
    event_id: str = Field(primary_key=True, max_length=40)
    event_type: str = Field(max_length=40)
    user_id: int | None = None
    data: str = Field(sa_type=Text)
    status: str = Field(default=DeliveryStatus.PENDING.value, max_length=10)
    attempts: int = 0
    tries: int = 0
    created_ms: int = Field(sa_type=BigInteger)
    since_ms: int = Field(sa_type=BigInteger)
    available_ms: int = Field(sa_type=BigInteger)
    completed_ms: int | None = Field(default=None, sa_type=BigInteger)


class WebhookAttempt(SQLModel, table=True):
    """One request of a delivery, from 1. `status` is that of the response; `error` says why there was none."""

    __tablename__ = "webhook_attempts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "webhook_id", "event_id"],
            ["webhook_deliveries.tenant_id", "webhook_deliveries.webhook_id", "webhook_deliveries.event_id"],
            ondelete="CASCADE",
        ),
    )

    tenant_id: int = Field(primary_key=True)
    webhook_id: str = Field(primary_key=True, max_length=40)
    event_id: str = Field(primary_key=True, max_length=40)
    number: int = Field(primary_key=True)
    started_ms: int = Field(sa_type=BigInteger)
    duration_ms: int
    status: int | None = None
    error: str | None = Field(default=None, max_length=200)
