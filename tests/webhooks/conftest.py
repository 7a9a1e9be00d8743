"""An outbox, its sender, and receivers on loopback."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import col, select

from support.deadlines import TEST_DEADLINE_S
from support.encryption import make_data_keys
from support.factories import FakeClock, make_tenant
from tollkeeper.audit_log.log import AuditLog
from tollkeeper.database.engine import Database
from tollkeeper.outbound.client import OutboundClient
from tollkeeper.webhooks import queue, sender
from tollkeeper.webhooks.attempts import Attempts
from tollkeeper.webhooks.events import EventType, joined, put_event
from tollkeeper.webhooks.models import Webhook, WebhookAttempt, WebhookDelivery
from tollkeeper.webhooks.secrets import WebhookSecrets
from tollkeeper.webhooks.sender import WebhookSender
from tollkeeper.webhooks.signatures import new_secret

LOOPBACK = "127.0.0.0/8"


@dataclass
class Outbox:
    """The outbox of a database, with what sends it. The clock stands still."""

    database: Database
    clock: FakeClock
    secrets: WebhookSecrets
    audit_log: AuditLog
    outbound: OutboundClient
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.database, self.outbound, self.secrets, self.audit_log, self.clock)
        self.sender = self.new_sender()

    def new_sender(self, concurrency: int = 32) -> WebhookSender:
        return WebhookSender(self.database, self.attempts, self.clock, concurrency=concurrency)

    async def tenant(self) -> int:
        return await make_tenant(self.database)

    async def webhook(
        self, tenant_id: int, url: str, *events: EventType, secret: str | None = None, **fields: Any
    ) -> Webhook:
        """A webhook, by default for the ends of jobs."""
        self.names.append("w")
        row = Webhook(
            tenant_id=tenant_id,
            id=f"wh_{len(self.names):032x}",
            sealed_url=b"",
            description="",
            events=joined(events or (EventType.JOB_COMPLETED,)),
            sealed_secret=b"",
            created_ms=self.clock.ms,
            **fields,
        )
        self.secrets.set_url(row, url)
        self.secrets.set_secret(row, secret or new_secret())
        async with self.database.session() as session:
            session.add(row)
        return row

    async def put(
        self, tenant_id: int, event_type: EventType = EventType.JOB_COMPLETED, name: int | None = None, **fields: Any
    ) -> None:
        event_id = f"evt_{name:032x}" if name is not None else None
        async with self.database.session() as session:
            await put_event(session, tenant_id, event_type, {"n": name}, self.clock.ms, event_id=event_id, **fields)

    async def send(self, sender: WebhookSender | None = None) -> int:
        """Send what is due, once, and wait until that has ended. Returns how many."""
        sender = sender or self.sender
        sent = await sender.send_due()
        async with asyncio.timeout(TEST_DEADLINE_S):
            while len(sender):
                await asyncio.sleep(0.005)
        return sent

    async def deliveries(self) -> list[WebhookDelivery]:
        async with self.database.session() as session:
            return list((await session.exec(select(WebhookDelivery).order_by(col(WebhookDelivery.event_id)))).all())

    async def attempts_made(self) -> list[WebhookAttempt]:
        async with self.database.session() as session:
            return list((await session.exec(select(WebhookAttempt).order_by(col(WebhookAttempt.number)))).all())

    async def row(self, webhook: Webhook) -> Webhook:
        async with self.database.session() as session:
            return await session.get_one(Webhook, (webhook.tenant_id, webhook.id))

    async def execute(self, statement: str, **values: object) -> int:
        async with self.database.session() as session:
            return (await (await session.connection()).execute(text(statement), values)).rowcount


@pytest.fixture
async def outbox(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Outbox]:
    monkeypatch.setattr(sender, "STOP_S", 0.05)
    monkeypatch.setattr(queue, "_with_jitter", lambda seconds: int(seconds * 1000))
    database, keys = Database(database_url), make_data_keys()
    outbound = OutboundClient(LOOPBACK, total_s=5.0)
    made = Outbox(database, FakeClock(), WebhookSecrets(keys), AuditLog(keys), outbound)
    yield made
    await made.sender.stop()
    outbound.close()
    await database.close()
