"""The tenants: operators see and change all; a tenant's administrator sees their own, and changes its settings."""

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Path, Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import BaseModel

from tollkeeper.administration import tenants
from tollkeeper.administration.tenants import MAX_RESET_DAY
from tollkeeper.api.admin.caller import Operator, TenantAdmin, changes_in, etag
from tollkeeper.api.admin.pages import MAX_ID, IdCursor, Limit, Page
from tollkeeper.api.formats import Moment, iso_datetime
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.identity.accounts import MAX_NAME_LENGTH
from tollkeeper.identity.models import Tenant
from tollkeeper.quota.rules.windows import UTC_CALENDAR, Calendar
from tollkeeper.response_cache.questions import CacheScope

router = APIRouter(prefix="/admin/tenants", tags=["admin"])

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
WindowName = Literal["minute", "hour", "day", "week", "month", "total"]
CacheName = Literal["off", "user", "tenant"]
ZoneName = Annotated[str, Meta(min_length=1, max_length=64)]
ModelName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^\S+\Z")]
Rubric = Annotated[str, Meta(min_length=1, max_length=4_000)]
ResetDay = Annotated[int, Meta(ge=1, le=MAX_RESET_DAY)]
TenantId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[1])]


class CreateTenantRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A tenant's name is unique. `default_limit` tokens per `default_period` are the quota of each user who is created
    without one. Days, weeks and months of the tenant's quotas begin at midnight in its `time_zone` (a name of the IANA
    database), months on its `reset_day`, or on their last day if they are shorter.
    """

    name: Name
    default_limit: Annotated[int, Meta(ge=0)] | None = None
    default_period: WindowName | None = None
    time_zone: ZoneName = UTC_CALENDAR.time_zone
    reset_day: ResetDay = UTC_CALENDAR.reset_day


class ChangeTenantRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Absent fields stay as they are. Name, state and calendar are for operators. `default_limit` tokens per
    `default_period` are the quota of each user who is created without one; null removes it.

    A change of `time_zone` or `reset_day` takes effect when the current windows end. The next window ends as the new
    calendar says; if that would be shorter than any day, week or month, it lasts until the end after it.

    `content_logging` has the prompts and answers of the tenant's calls stored, encrypted, for its administrators: only
    one of them can turn it on, after a fresh login. `/me` shows it to each user. They are deleted after `content_days`;
    with null, when the operator's time is over, which is also the longest.

    `cache` is for whom the response cache is on: `off`, only for calls that ask for it; `user`, for all calls, with
    answers to the same user; `tenant`, for all calls, with answers to all users of the tenant.

    `judge_model` is the model that rates the answers of calls with `evaluate`, by the `judge_rubric`; without a rubric,
    by a general one. With null for the model, no call of the tenant can be evaluated. `evaluate_share` of the other
    answers, from 0 to 1, are rated, too, at the cost of the service account `evaluate_account`; their callers neither
    wait for that nor see it.
    """

    name: Name | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    default_limit: Annotated[int, Meta(ge=0)] | UnsetType | None = UNSET
    default_period: WindowName | UnsetType | None = UNSET
    time_zone: ZoneName | UnsetType = UNSET
    reset_day: ResetDay | UnsetType = UNSET
    content_logging: bool | UnsetType = UNSET
    content_days: Annotated[int, Meta(ge=1, le=36_500)] | UnsetType | None = UNSET
    cache: CacheName | UnsetType = UNSET
    judge_model: ModelName | UnsetType | None = UNSET
    judge_rubric: Rubric | UnsetType | None = UNSET
    evaluate_share: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    evaluate_account: Annotated[int, Meta(ge=1, le=MAX_ID)] | UnsetType | None = UNSET


class TenantResponse(BaseModel):
    """A tenant."""

    id: int
    name: str
    disabled: bool
    default_limit: int | None
    default_period: str | None
    time_zone: str
    reset_day: int
    plan_id: int | None
    content_logging: bool
    content_days: int | None
    cache: CacheName
    judge_model: str | None
    judge_rubric: str | None
    evaluate_share: float
    evaluate_account: int | None
    created_at: Moment


@router.post(
    "",
    status_code=201,
    response_model=TenantResponse,
    openapi_extra=json_body(CreateTenantRequest, {"name": "acme", "default_limit": 100_000, "default_period": "month"}),
    summary="Create a tenant",
)
async def create_tenant(caller: Operator) -> Response:
    async def create(sent: CreateTenantRequest) -> TenantResponse:
        tenant = await tenants.create_tenant(
            caller.admin,
            sent.name,
            default_limit=sent.default_limit,
            default_period=sent.default_period,
            calendar=Calendar(sent.time_zone, sent.reset_day),
        )
        return tenant_response(tenant)

    return await caller.once(CreateTenantRequest, create)


@router.get("", summary="List the tenants")
async def list_tenants(caller: TenantAdmin, limit: Limit = 20, cursor: IdCursor = None) -> Page[TenantResponse]:
    found = await tenants.list_tenants(caller.admin, after=cursor, limit=limit + 1)
    page = [tenant_response(tenant) for tenant in found[:limit]]
    return Page(data=page, next_cursor=str(page[-1].id) if len(found) > limit else None)


@router.get("/{tenant_id}", summary="A tenant")
async def get_tenant(tenant_id: TenantId, caller: TenantAdmin, response: Response) -> TenantResponse:
    found = tenant_response(await tenants.get_tenant(caller.admin, tenant_id))
    response.headers["ETag"] = etag(found)
    return found


@router.patch(
    "/{tenant_id}",
    openapi_extra=json_body(ChangeTenantRequest, {"default_limit": 100_000, "default_period": "month"}),
    summary="Change a tenant's settings, or disable it",
)
async def change_tenant(tenant_id: TenantId, caller: TenantAdmin, response: Response) -> TenantResponse:
    """A disabled tenant is refused from the next request on. Calls in flight are settled."""
    sent = await caller.read(ChangeTenantRequest)
    tenant = await tenants.get_tenant(caller.admin, tenant_id, to_change=True)
    caller.require_match(tenant_response(tenant))
    changed = tenant_response(await tenants.change_tenant(caller.admin, tenant, changes_in(sent)))
    response.headers["ETag"] = etag(changed)
    return changed


def tenant_response(tenant: Tenant) -> TenantResponse:
    """A tenant as responses show it."""
    assert tenant.id is not None
    return TenantResponse(
        id=tenant.id,
        name=tenant.name,
        disabled=tenant.disabled_at is not None,
        default_limit=tenant.default_limit,
        default_period=tenant.default_period,
        time_zone=tenant.time_zone,
        reset_day=tenant.reset_day,
        plan_id=tenant.plan_id,
        content_logging=tenant.content_logging,
        content_days=tenant.content_days,
        cache=CacheScope(tenant.cache_scope or CacheScope.OFF).value,
        judge_model=tenant.judge_model,
        judge_rubric=tenant.judge_rubric,
        evaluate_share=tenant.evaluate_share,
        evaluate_account=tenant.evaluate_account,
        created_at=iso_datetime(tenant.created_at),
    )
