"""Webhooks: where a tenant is notified of events. Its administrators manage those of their own tenant."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import BaseModel, Field

from tollkeeper.administration import tenants, webhooks
from tollkeeper.administration.webhooks import MAX_DESCRIPTION, MAX_OVERLAP_HOURS
from tollkeeper.api.admin.caller import AdminCaller, TenantAdmin, changes_in, etag
from tollkeeper.api.admin.pages import NO_TENANT, Limit, Page
from tollkeeper.api.admin.users import OfTenant, TenantNumber
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.errors import InvalidRequest, OutboundError
from tollkeeper.outbound.client import MAX_URL_LENGTH
from tollkeeper.webhooks.events import EventType, split
from tollkeeper.webhooks.models import Webhook
from tollkeeper.webhooks.secrets import WebhookSecrets

router = APIRouter(prefix="/admin/webhooks", tags=["admin"])

_ID = r"^wh_[0-9a-f]{32}$"
EXAMPLE_ID = "wh_0123456789abcdef0123456789abcdef"
WebhookId = Annotated[str, Path(max_length=40, examples=[EXAMPLE_ID])]
WebhookCursor = Annotated[str | None, Query(max_length=40, pattern=_ID, examples=[EXAMPLE_ID])]
Url = Annotated[str, Meta(min_length=1, max_length=MAX_URL_LENGTH)]
Events = Annotated[tuple[EventType, ...], Meta(min_length=1, max_length=len(EventType))]
Description = Annotated[str, Meta(max_length=MAX_DESCRIPTION)]


class CreateWebhookRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Where to send which events. Without a `tenant_id`, they are those of the caller's tenant."""

    url: Url
    events: Events
    description: Description = ""
    tenant_id: TenantNumber | None = None


class ChangeWebhookRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Absent fields stay as they are."""

    url: Url | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class RotateSecretRequest(msgspec.Struct, forbid_unknown_fields=True):
    """For how long the present secret signs, too, so that the receiver can change to the new one. 0 ends it at once."""

    overlap_hours: Annotated[int, Meta(ge=0, le=MAX_OVERLAP_HOURS)] = 24


class WebhookResponse(BaseModel):
    """A webhook. `failing_since` is the first of the failures since the last success; null while it works.

    `disabled_reason` is `administrator`, `failing` (no success for days) or `gone` (the receiver has answered 410).
    """

    id: str
    tenant_id: int
    url: str
    events: list[str]
    description: str
    disabled: bool
    disabled_reason: str | None
    failing_since: Moment | None
    previous_secret_until: Moment | None
    created_at: Moment


class CreatedWebhookResponse(WebhookResponse):
    """A new webhook. `secret` is returned only this once; the server stores it encrypted."""

    secret: Annotated[str, Field(repr=False)]


class SecretResponse(BaseModel):
    """A new secret. It is returned only this once; the server stores it encrypted."""

    secret: Annotated[str, Field(repr=False)]
    previous_secret_until: Moment | None


EXAMPLE = {"url": "https://hooks.example.com/tollkeeper", "events": ["job.completed", "job.failed"]}


@router.post(
    "",
    status_code=201,
    response_model=CreatedWebhookResponse,
    responses=NO_TENANT,
    openapi_extra=json_body(CreateWebhookRequest, EXAMPLE),
    summary="Register a webhook",
)
async def create_webhook(caller: TenantAdmin) -> Response:
    """It needs a fresh login. The host must have public addresses only; nothing is sent to it yet."""

    async def create(sent: CreateWebhookRequest) -> CreatedWebhookResponse:
        caller.admin.require_fresh_login()
        tenant_id = sent.tenant_id if sent.tenant_id is not None else caller.principal.tenant_id
        await tenants.get_tenant(caller.admin, tenant_id)
        await _check_url(caller, sent.url, tenant_id)
        made, secret = await webhooks.create_webhook(
            caller.admin, _secrets(caller), tenant_id, sent.url, sent.events, sent.description
        )
        return CreatedWebhookResponse(**_fields(caller, made), secret=secret)

    return await caller.once(CreateWebhookRequest, create)


@router.get("", responses=NO_TENANT, summary="List webhooks")
async def list_webhooks(
    caller: TenantAdmin, tenant_id: OfTenant = None, limit: Limit = 20, cursor: WebhookCursor = None
) -> Page[WebhookResponse]:
    """Those of the own tenant; an operator sees those of all tenants, or of one."""
    found = await webhooks.list_webhooks(caller.admin, tenant_id, after=cursor, limit=limit + 1)
    page = [WebhookResponse(**_fields(caller, webhook)) for webhook in found[:limit]]
    return Page(data=page, next_cursor=page[-1].id if len(found) > limit else None)


@router.get("/{webhook_id}", summary="A webhook")
async def get_webhook(webhook_id: WebhookId, caller: TenantAdmin, response: Response) -> WebhookResponse:
    found = await webhooks.get_webhook(caller.admin, webhook_id)
    response.headers["ETag"] = _etag(caller, found)
    return WebhookResponse(**_fields(caller, found))


@router.patch(
    "/{webhook_id}",
    openapi_extra=json_body(ChangeWebhookRequest, {"events": ["job.failed"], "disabled": False}),
    summary="Change, disable or enable a webhook",
)
async def change_webhook(webhook_id: WebhookId, caller: TenantAdmin, response: Response) -> WebhookResponse:
    """Another URL needs a fresh login. Events that a disabled webhook misses are not sent later."""
    changes = changes_in(await caller.read(ChangeWebhookRequest))
    found = await webhooks.get_webhook(caller.admin, webhook_id)
    if "url" in changes:
        caller.admin.require_fresh_login()
        await _check_url(caller, changes["url"], found.tenant_id)
    found = await webhooks.get_webhook(caller.admin, webhook_id, to_change=True)
    caller.require_match(_versioned(caller, found))
    changed = await webhooks.change_webhook(caller.admin, _secrets(caller), found, changes)
    response.headers["ETag"] = _etag(caller, changed)
    return WebhookResponse(**_fields(caller, changed))


@router.delete("/{webhook_id}", status_code=204, summary="Delete a webhook")
async def delete_webhook(webhook_id: WebhookId, caller: TenantAdmin) -> None:
    """Nothing is sent any more, and its deliveries are deleted."""
    await webhooks.delete_webhook(caller.admin, await webhooks.get_webhook(caller.admin, webhook_id, to_change=True))


@router.post(
    "/{webhook_id}/rotate-secret",
    status_code=201,
    response_model=SecretResponse,
    openapi_extra=json_body(RotateSecretRequest, {"overlap_hours": 24}, required=False),
    summary="Replace the secret of a webhook",
)
async def rotate_webhook_secret(webhook_id: WebhookId, caller: TenantAdmin) -> Response:
    """It needs a fresh login. Until the overlap ends, each request has a signature of both secrets."""

    async def rotate(sent: RotateSecretRequest) -> SecretResponse:
        found = await webhooks.get_webhook(caller.admin, webhook_id, to_change=True)
        secret = await webhooks.rotate_secret(caller.admin, _secrets(caller), found, sent.overlap_hours)
        return SecretResponse(secret=secret, previous_secret_until=iso(found.previous_until_ms))

    return await caller.once(RotateSecretRequest, rotate)


def _secrets(caller: AdminCaller) -> WebhookSecrets:
    return WebhookSecrets(caller.services.data_keys)


async def _check_url(caller: AdminCaller, url: str, tenant_id: int) -> None:
    """Raises InvalidRequest if nothing may be sent to this URL, or if its host has no address."""
    try:
        await caller.outside_transaction(caller.services.webhook_client.check(url, tenant_id=tenant_id))
    except OutboundError as error:
        raise InvalidRequest(error.detail, parameter="url") from None


def _etag(caller: AdminCaller, webhook: Webhook) -> str:
    return etag(_versioned(caller, webhook))


def _versioned(caller: AdminCaller, webhook: Webhook) -> WebhookResponse:
    """What the ETag is made of: all that an administrator can change."""
    return WebhookResponse(**_fields(caller, webhook) | {"failing_since": None})


def _fields(caller: AdminCaller, webhook: Webhook) -> dict[str, Any]:
    overlaps = webhook.previous_until_ms is not None and webhook.previous_until_ms > caller.admin.now_ms
    return {
        "id": webhook.id,
        "tenant_id": webhook.tenant_id,
        "url": _secrets(caller).url(webhook),
        "events": split(webhook.events),
        "description": webhook.description,
        "disabled": webhook.disabled_ms is not None,
        "disabled_reason": webhook.disabled_reason,
        "failing_since": iso(webhook.failing_since_ms),
        "previous_secret_until": iso(webhook.previous_until_ms) if overlaps else None,
        "created_at": iso(webhook.created_ms),
    }
