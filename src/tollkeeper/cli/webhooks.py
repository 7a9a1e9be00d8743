"""`tollkeeper webhook`: register, list, change, test and delete a tenant's webhooks; show and replay deliveries."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Annotated, Any, TypeVar

import typer

from tollkeeper.administration import webhooks
from tollkeeper.administration.webhooks import MAX_OVERLAP_HOURS
from tollkeeper.bootstrap.webhooks import make_webhook_client
from tollkeeper.cli.arguments import parse_choice, parse_name
from tollkeeper.cli.context import Administration, open_administration
from tollkeeper.cli.output import AsJson, iso_time, print_json, print_table
from tollkeeper.cli.user_output import print_result
from tollkeeper.errors import InvalidRequest, OutboundError
from tollkeeper.identity import accounts
from tollkeeper.webhooks import repository
from tollkeeper.webhooks.events import EventType, split
from tollkeeper.webhooks.models import DeliveryStatus, Webhook, WebhookDelivery
from tollkeeper.webhooks.secrets import WebhookSecrets

app = typer.Typer(
    name="webhook",
    help="Register, list, change, test and delete a tenant's webhooks; show and replay deliveries.",
    no_args_is_help=True,
    add_completion=False,
)

Record = dict[str, Any]
Result = TypeVar("Result")
MAX_LISTED = 1_000
COMMAND = 0
"""No tenant: a command has a client of its own."""
WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", show_default=False, help="The webhook's id.")]
Events = Annotated[
    str, typer.Option(metavar="EVENTS", show_default=False, help="Types, separated by commas: job.completed,….")
]


@app.command(name="list")
def list_(
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="NAME", help="Only this tenant's.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List webhooks. Their secrets cannot be shown."""

    async def read(administration: Administration) -> list[Record]:
        admin = administration.admin
        tenant_id = await _tenant_id(administration, tenant) if tenant is not None else None
        found = await webhooks.list_webhooks(admin, tenant_id, limit=MAX_LISTED)
        return [_record(administration, one) for one in found]

    records = _run(read)
    if as_json:
        print_json(records)
    else:
        columns = ("id", "tenant_id", "url", "state")
        print_table(columns, [[str(record[column]) for column in columns] for record in records])


@app.command()
def create(
    url: Annotated[str, typer.Argument(metavar="URL", show_default=False, help="Where to send the events.")],
    events: Events,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", show_default=False, help="The tenant.")],
    description: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Register a webhook. Its secret is printed this once; enter it at the receiver."""

    async def act(administration: Administration) -> Record:
        tenant_id = await _tenant_id(administration, tenant)
        made, secret = await webhooks.create_webhook(
            administration.admin, _secrets(administration), tenant_id, url, _parsed_events(events), description
        )
        return _record(administration, made) | {"secret": secret}

    record = _run(act, url=url)
    print_result(record, f"Webhook {record['id']}. Its secret: {record['secret']}", as_json=as_json)


@app.command()
def change(
    webhook_id: WebhookId,
    url: Annotated[str | None, typer.Option(metavar="URL", show_default=False, help="Another URL.")] = None,
    events: Annotated[
        str | None, typer.Option(metavar="EVENTS", show_default=False, help="Other types, separated by commas.")
    ] = None,
    description: Annotated[str | None, typer.Option(metavar="TEXT", show_default=False, help="What it is for.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a webhook. What is not given stays."""
    given = {"url": url, "events": _parsed_events(events) if events is not None else None, "description": description}
    _change(webhook_id, {name: value for name, value in given.items() if value is not None}, as_json=as_json)


@app.command()
def disable(webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Send nothing any more, until it is enabled."""
    _change(webhook_id, {"disabled": True}, as_json=as_json)


@app.command()
def enable(webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Send again, also what waits from before it was disabled."""
    _change(webhook_id, {"disabled": False}, as_json=as_json)


@app.command()
def delete(webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Delete a webhook, and its deliveries."""

    async def act(administration: Administration) -> None:
        found = await webhooks.get_webhook(administration.admin, webhook_id, to_change=True)
        await webhooks.delete_webhook(administration.admin, found)

    _run(act)
    print_result({"id": webhook_id, "deleted": True}, f"The webhook {webhook_id} is deleted.", as_json=as_json)


@app.command(name="rotate-secret")
def rotate_secret(
    webhook_id: WebhookId,
    overlap_hours: Annotated[
        int, typer.Option(min=0, max=MAX_OVERLAP_HOURS, metavar="N", help="How long the present one signs, too.")
    ] = 24,
    as_json: AsJson = False,
) -> None:
    """Replace the secret of a webhook. The new one is printed this once."""

    async def act(administration: Administration) -> Record:
        found = await webhooks.get_webhook(administration.admin, webhook_id, to_change=True)
        secret = await webhooks.rotate_secret(administration.admin, _secrets(administration), found, overlap_hours)
        return {"id": webhook_id, "secret": secret, "previous_secret_until": iso_time(found.previous_until_ms)}

    record = _run(act)
    print_result(record, f"The new secret: {record['secret']}", as_json=as_json)


@app.command(name="test")
def send_test(webhook_id: WebhookId, as_json: AsJson = False) -> None:
    """Send a test event. A server or worker must run: it sends."""

    async def act(administration: Administration) -> Record:
        found = await webhooks.get_webhook(administration.admin, webhook_id, to_change=True)
        return _delivery(await webhooks.send_test(administration.admin, found))

    record = _run(act)
    print_result(record, f"The test event is {record['id']}.", as_json=as_json)


@app.command()
def deliveries(
    webhook_id: WebhookId,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="pending, delivered or dead.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, metavar="N", help="How many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the deliveries of a webhook with their last attempts, the newest first."""
    wanted = parse_choice(status, "status", [*DeliveryStatus]) if status is not None else None

    async def read(administration: Administration) -> list[Record]:
        admin = administration.admin
        webhook = await webhooks.get_webhook(admin, webhook_id)
        found = await webhooks.list_deliveries(admin, webhook, status=wanted, limit=limit)
        return [_delivery(one) | await _last_attempt(administration, one) for one in found]

    records = _run(read)
    if as_json:
        print_json(records)
    else:
        columns = ("id", "event_type", "status", "attempts", "last")
        print_table(columns, [[str(record[column]) for column in columns] for record in records])


@app.command()
def replay(
    webhook_id: WebhookId,
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", show_default=False, help="The delivery's id.")],
    as_json: AsJson = False,
) -> None:
    """Send an event again, with the id that it had."""

    async def act(administration: Administration) -> Record:
        found = await webhooks.get_webhook(administration.admin, webhook_id, to_change=True)
        return _delivery(await webhooks.replay(administration.admin, found, delivery_id))

    record = _run(act)
    print_result(record, f"The event {record['id']} is sent again.", as_json=as_json)


def _change(webhook_id: str, changes: Record, *, as_json: bool) -> None:
    async def act(administration: Administration) -> Record:
        found = await webhooks.get_webhook(administration.admin, webhook_id, to_change=True)
        changed = await webhooks.change_webhook(administration.admin, _secrets(administration), found, changes)
        return _record(administration, changed)

    record = _run(act, url=changes.get("url"))
    print_result(record, f"The webhook {webhook_id} is {record['state']}.", as_json=as_json)


def _run(act: Callable[[Administration], Awaitable[Result]], *, url: str | None = None) -> Result:
    """Do an administrative act. A URL is checked first, while no transaction is open."""

    async def run() -> Result:
        async with open_administration() as administration:
            if url is not None:
                await _check_url(administration, url)
            return await act(administration)

    return asyncio.run(run())


async def _check_url(administration: Administration, url: str) -> None:
    """Raises InvalidRequest if nothing may be sent to this URL, or if its host has no address."""
    with closing(make_webhook_client(administration.context.settings)) as client:
        try:
            await client.check(url, tenant_id=COMMAND)
        except OutboundError as error:
            raise InvalidRequest(error.detail) from None


def _secrets(administration: Administration) -> WebhookSecrets:
    return WebhookSecrets(administration.keys)


async def _tenant_id(administration: Administration, name: str) -> int:
    tenant = await accounts.get_tenant_by_name(administration.admin.session, parse_name(name))
    assert tenant.id is not None
    return tenant.id


def _parsed_events(events: str) -> list[str]:
    return [parse_choice(one.strip(), "event", [*EventType]) for one in events.split(",")]


def _record(administration: Administration, webhook: Webhook) -> Record:
    state = "failing" if webhook.failures else "enabled"
    return {
        "id": webhook.id,
        "tenant_id": webhook.tenant_id,
        "url": _secrets(administration).url(webhook),
        "events": split(webhook.events),
        "description": webhook.description,
        "state": f"disabled ({webhook.disabled_reason})" if webhook.disabled_ms is not None else state,
        "created": iso_time(webhook.created_ms),
    }


def _delivery(delivery: WebhookDelivery) -> Record:
    is_pending = delivery.status == DeliveryStatus.PENDING
    return {
        "id": delivery.event_id,
        "event_type": delivery.event_type,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "created": iso_time(delivery.created_ms),
        "next_attempt": iso_time(delivery.available_ms) if is_pending else None,
        "completed": iso_time(delivery.completed_ms),
    }


async def _last_attempt(administration: Administration, delivery: WebhookDelivery) -> Record:
    attempts = await repository.list_attempts(administration.admin.session, delivery)
    return {"last": (attempts[0].status or attempts[0].error) if attempts else None}
