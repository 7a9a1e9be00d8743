"""Webhooks of tenants: register, change, delete and test them, replace their secrets, replay their deliveries."""

from collections.abc import Collection, Mapping
from typing import Any

from yarl import URL

from tollkeeper.administration import tenants
from tollkeeper.administration.administrator import Administrator
from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.quota.time_sorted_ids import new_id
from tollkeeper.webhooks import repository
from tollkeeper.webhooks.events import EVENT_PREFIX, TEST_EVENT, EventType, joined, split
from tollkeeper.webhooks.models import DeliveryStatus, DisabledReason, Webhook, WebhookDelivery
from tollkeeper.webhooks.repository import DeliveryPosition
from tollkeeper.webhooks.secrets import WebhookSecrets
from tollkeeper.webhooks.signatures import new_secret

PREFIX = "wh"
MAX_WEBHOOKS = 20
"""Of one tenant: each event is stored for each webhook that takes it."""
MAX_DESCRIPTION = 200
MAX_OVERLAP_HOURS = 168
HOUR_MS = 3_600_000


async def list_webhooks(
    admin: Administrator, tenant_id: int | None, *, after: str | None = None, limit: int = MAX_WEBHOOKS
) -> list[Webhook]:
    """The webhooks of a tenant; without one, those that the administrator may see. Raises NotFound."""
    if tenant_id is not None:
        await tenants.get_tenant(admin, tenant_id)
    return await repository.list_page(admin.session, admin.scope.narrow(tenant_id), after=after, limit=limit)


async def get_webhook(admin: Administrator, webhook_id: str, *, to_change: bool = False) -> Webhook:
    """Raises NotFound, also for another tenant's."""
    found = await repository.find(admin.session, admin.scope, webhook_id, to_change=to_change)
    if found is None:
        raise NotFound
    return found


async def create_webhook(
    admin: Administrator,
    secrets: WebhookSecrets,
    tenant_id: int | None,
    url: str,
    events: Collection[str],
    description: str = "",
) -> tuple[Webhook, str]:
    """A webhook of a tenant (by default the administrator's own), and its secret. The URL was checked a moment ago, by
    `OutboundClient.check`.

    Raises StepUpRequired, because what is sent there leaves the tenant; NotFound, InvalidRequest.
    """
    admin.require_fresh_login()
    owner = admin.tenant_id if tenant_id is None else tenant_id
    if owner is None:
        raise InvalidRequest("Name the tenant.")
    await tenants.get_tenant(admin, owner, to_change=True)
    if await repository.count(admin.session, owner) >= MAX_WEBHOOKS:
        raise InvalidRequest(f"A tenant has at most {MAX_WEBHOOKS} webhooks. Delete one first.")
    webhook = Webhook(
        tenant_id=owner,
        id=new_id(PREFIX),
        sealed_url=b"",
        description=_checked_description(description),
        events=joined(_checked_events(events)),
        sealed_secret=b"",
        created_ms=admin.now_ms,
    )
    secret = new_secret()
    secrets.set_url(webhook, url)
    secrets.set_secret(webhook, secret)
    admin.session.add(webhook)
    await admin.session.flush()
    await admin.note(owner, "webhook.create", target_of(webhook), after=_record(webhook) | {"host": _host(url)})
    return webhook, secret


async def change_webhook(
    admin: Administrator, secrets: WebhookSecrets, webhook: Webhook, changes: Mapping[str, Any]
) -> Webhook:
    """Change `url` (checked, as for `create_webhook`), `events`, `description` or `disabled`. Absent ones stay.

    An enabled one sends at once what waits. Raises StepUpRequired for another URL, InvalidRequest.
    """
    before = _record(webhook)
    if "url" in changes:
        admin.require_fresh_login()
        secrets.set_url(webhook, changes["url"])
    if "events" in changes:
        webhook.events = joined(_checked_events(changes["events"]))
    if "description" in changes:
        webhook.description = _checked_description(changes["description"])
    if "disabled" in changes and changes["disabled"] != (webhook.disabled_ms is not None):
        webhook.disabled_ms = admin.now_ms if changes["disabled"] else None
        webhook.disabled_reason = DisabledReason.ADMINISTRATOR.value if changes["disabled"] else None
    if "url" in changes or webhook.disabled_ms is None:
        webhook.failures, webhook.failing_since_ms, webhook.available_ms = 0, None, 0
    await admin.session.flush()
    after = _record(webhook) | ({"host": _host(changes["url"])} if "url" in changes else {})
    if after != before:
        await admin.note(webhook.tenant_id, "webhook.change", target_of(webhook), before=before, after=after)
    return webhook


async def delete_webhook(admin: Administrator, webhook: Webhook) -> None:
    """Nothing is sent any more. Its URL and secrets are deleted at once, its deliveries in the background."""
    webhook.deleted_ms = admin.now_ms
    webhook.sealed_url, webhook.sealed_secret, webhook.sealed_previous = b"", b"", None
    await admin.session.flush()
    await admin.note(webhook.tenant_id, "webhook.delete", target_of(webhook), before=_record(webhook))


async def rotate_secret(admin: Administrator, secrets: WebhookSecrets, webhook: Webhook, overlap_hours: int) -> str:
    """Replace the secret. The present one signs, too, for so many hours. Returns the new one. Raises StepUpRequired."""
    admin.require_fresh_login()
    secret = new_secret()
    until_ms = admin.now_ms + overlap_hours * HOUR_MS if overlap_hours else None
    secrets.replace_secret(webhook, secret, until_ms)
    await admin.session.flush()
    note = {"overlap_hours": overlap_hours}
    await admin.note(webhook.tenant_id, "webhook.rotate_secret", target_of(webhook), after=note)
    return secret


async def send_test(admin: Administrator, webhook: Webhook) -> WebhookDelivery:
    """Put a test event in the outbox. Raises InvalidRequest for a disabled webhook, or while an earlier test waits."""
    _require_enabled(webhook)
    if await repository.find_pending(admin.session, webhook, TEST_EVENT) is not None:
        raise InvalidRequest("An earlier test event has not been delivered yet. Look at its delivery.")
    delivery = WebhookDelivery(
        tenant_id=webhook.tenant_id,
        webhook_id=webhook.id,
        event_id=new_id(EVENT_PREFIX),
        event_type=TEST_EVENT,
        data=f'{{"webhook_id": "{webhook.id}"}}',
        created_ms=admin.now_ms,
        since_ms=admin.now_ms,
        available_ms=admin.now_ms,
    )
    admin.session.add(delivery)
    webhook.available_ms = admin.now_ms
    await admin.session.flush()
    return delivery


async def get_delivery(
    admin: Administrator, webhook: Webhook, event_id: str, *, to_change: bool = False
) -> WebhookDelivery:
    """Raises NotFound."""
    found = await repository.find_delivery(admin.session, webhook, event_id, to_change=to_change)
    if found is None:
        raise NotFound
    return found


async def list_deliveries(
    admin: Administrator,
    webhook: Webhook,
    *,
    status: str | None = None,
    before: DeliveryPosition | None = None,
    limit: int,
) -> list[WebhookDelivery]:
    """The newest first."""
    return await repository.list_deliveries(admin.session, webhook, status=status, before=before, limit=limit)


async def replay(admin: Administrator, webhook: Webhook, event_id: str) -> WebhookDelivery:
    """Send an event again, with its id and as many tries as a new one. Raises NotFound; InvalidRequest for a disabled
    webhook, or if the event is still to be sent.
    """
    _require_enabled(webhook)
    delivery = await get_delivery(admin, webhook, event_id, to_change=True)
    if delivery.status == DeliveryStatus.PENDING:
        raise InvalidRequest("This delivery is pending: it is sent without a replay.")
    delivery.status, delivery.completed_ms, delivery.tries = DeliveryStatus.PENDING.value, None, 0
    delivery.since_ms = delivery.available_ms = webhook.available_ms = admin.now_ms
    await admin.session.flush()
    await admin.note(webhook.tenant_id, "webhook.replay", target_of(webhook), after={"event": event_id})
    return delivery


def target_of(webhook: Webhook) -> str:
    """How the audit log names a webhook."""
    return f"webhook:{webhook.id}"


def _require_enabled(webhook: Webhook) -> None:
    if webhook.disabled_ms is not None:
        raise InvalidRequest("The webhook is disabled. Enable it first.")


def _checked_events(events: Collection[str]) -> Collection[str]:
    known = [kind.value for kind in EventType]
    if not events or not set(events) <= set(known):
        raise InvalidRequest(f"Choose one or more of these events: {', '.join(known)}.", parameter="events")
    return set(events)


def _checked_description(description: str) -> str:
    if len(description) > MAX_DESCRIPTION or not description.isprintable():
        raise InvalidRequest(f"A description has at most {MAX_DESCRIPTION} printable characters, on one line.")
    return description


def _host(url: str) -> str:
    """What the audit log says of a URL, which may contain a secret."""
    return URL(url).host or ""


def _record(webhook: Webhook) -> dict[str, Any]:
    return {
        "events": split(webhook.events),
        "description": webhook.description,
        "disabled": webhook.disabled_ms is not None,
    }
