"""The moderation policy of a tenant. Its administrator manages it, and so does an operator."""

from datetime import date
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from tollkeeper.administration import moderation
from tollkeeper.api.admin.caller import TenantAdmin, etag
from tollkeeper.api.admin.pages import MAX_ID, NO_TENANT
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.configuration.models import ModerationPolicy
from tollkeeper.moderation.documents import PolicyDocument, read_document
from tollkeeper.moderation.policy import example

router = APIRouter(prefix="/admin/moderation", tags=["admin"])

TenantId = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1], description="By default the caller's own.")]
FirstDay = Annotated[date | None, Query(alias="from", examples=["2026-01-01"])]
LastDay = Annotated[date | None, Query(alias="to", examples=["2026-01-31"])]
ABSENT: dict[int | str, dict[str, Any]] = {404: {"description": "The tenant has no policy, or does not exist"}}


class PolicyResponse(BaseModel):
    """A policy: `rules`, `window` and `service_account` are as they were set."""

    tenant_id: int
    rules: list[dict[str, Any]]
    window: dict[str, Any]
    service_account: int | None
    changed_at: Moment


class CountResponse(BaseModel):
    """In how many calls of a day (UTC) a rule has found something, and how much. `enforced`: it has changed them."""

    day: str
    rule: str
    stage: str
    action: str
    enforced: bool
    calls: int
    findings: int


class CountListResponse(BaseModel):
    """The counts by day, rule and stage."""

    data: list[CountResponse] = Field(examples=[[]])


@router.get("", responses=ABSENT, summary="The tenant's moderation policy")
async def get_moderation(caller: TenantAdmin, response: Response, tenant_id: TenantId = None) -> PolicyResponse:
    found = _policy_response(await moderation.get_policy(caller.admin, tenant_id))
    response.headers["ETag"] = etag(found)
    return found


@router.put(
    "",
    openapi_extra=json_body(PolicyDocument, example()),
    responses=NO_TENANT,
    summary="Set the tenant's moderation policy",
)
async def set_moderation(caller: TenantAdmin, response: Response, tenant_id: TenantId = None) -> PolicyResponse:
    """Within about a second, it applies to all calls of the tenant. Rules that are `report_only` change none."""
    document = await caller.read(PolicyDocument)
    if "if-match" in caller.request.headers:
        caller.require_match(_policy_response(await moderation.get_policy(caller.admin, tenant_id)))
    changed = _policy_response(await moderation.set_policy(caller.admin, tenant_id, document))
    response.headers["ETag"] = etag(changed)
    return changed


@router.delete("", status_code=204, responses=ABSENT, summary="Remove the tenant's moderation policy")
async def remove_moderation(caller: TenantAdmin, tenant_id: TenantId = None) -> None:
    """Within about a second, nothing of the tenant's calls is moderated any more."""
    await moderation.remove_policy(caller.admin, tenant_id)


@router.get("/counts", responses=NO_TENANT, summary="What the rules of the tenant's moderation have found")
async def count_moderation(
    caller: TenantAdmin, first: FirstDay = None, last: LastDay = None, tenant_id: TenantId = None
) -> CountListResponse:
    """Counted a few seconds after a call. By default, those of the last 30 days."""
    found = await moderation.counts(caller.admin, tenant_id, first, last)
    return CountListResponse(data=[CountResponse(**row.model_dump(exclude={"tenant_id"})) for row in found])


def _policy_response(stored: ModerationPolicy) -> PolicyResponse:
    document = msgspec.to_builtins(read_document(stored.document))
    return PolicyResponse(
        tenant_id=stored.tenant_id,
        rules=document["rules"],
        window=document["window"],
        service_account=document.get("service_account"),
        changed_at=iso(stored.changed_ms),
    )
