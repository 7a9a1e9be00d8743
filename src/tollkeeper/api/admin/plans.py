"""Plans: named sets of rate limits, default quotas, allowed models and retention. For operators."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import BaseModel

from tollkeeper.administration import plans, tenants
from tollkeeper.administration.plans import MAX_NAME_LENGTH, Assignment
from tollkeeper.api.admin.caller import Operator, changes_in, etag
from tollkeeper.api.admin.pages import MAX_ID, IdCursor, Limit, Page
from tollkeeper.api.admin.reasons import Reason
from tollkeeper.api.admin.tenants import TenantId, TenantResponse, tenant_response
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.configuration.models import Plan
from tollkeeper.configuration.plans import MAX_QUOTAS, PlanQuota, PlanTerms, Rate, read_terms

router = APIRouter(prefix="/admin", tags=["admin"])

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
PlanId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[1])]
EXAMPLE: dict[str, Any] = {
    "name": "pro",
    "calls_per_user": "60/minute",
    "calls_per_tenant": "600/minute",
    "models": ["gpt-4o-mini"],
    "tenant_quotas": [{"window": "month", "limit": 50_000_000}],
    "user_quotas": [{"window": "day", "limit": 100_000}],
    "content_days": 14,
}


class CreatePlanRequest(PlanTerms, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A plan has a unique name. Absent terms are not part of it."""

    name: Name


class ChangePlanRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Absent fields stay as they are; null removes a term."""

    name: Name | UnsetType = UNSET
    calls_per_user: Rate | UnsetType | None = UNSET
    calls_per_tenant: Rate | UnsetType | None = UNSET
    requests_per_user: Rate | UnsetType | None = UNSET
    requests_per_tenant: Rate | UnsetType | None = UNSET
    models: Annotated[tuple[str, ...], Meta(min_length=1, max_length=50)] | UnsetType | None = UNSET
    tenant_quotas: Annotated[tuple[PlanQuota, ...], Meta(max_length=MAX_QUOTAS)] | UnsetType = UNSET
    user_quotas: Annotated[tuple[PlanQuota, ...], Meta(max_length=MAX_QUOTAS)] | UnsetType = UNSET
    content_days: Annotated[int, Meta(ge=1, le=36_500)] | UnsetType | None = UNSET


class AssignPlanRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The plan that the tenant is to be on; null for none."""

    plan_id: Annotated[int, Meta(ge=1, le=MAX_ID)] | None
    reason: Reason


class PlanQuotaResponse(BaseModel):
    """A quota of a plan."""

    unit: str
    window: str
    limit: int


class PlanResponse(BaseModel):
    """A plan."""

    id: int
    name: str
    calls_per_user: str | None
    calls_per_tenant: str | None
    requests_per_user: str | None
    requests_per_tenant: str | None
    models: list[str] | None
    tenant_quotas: list[PlanQuotaResponse]
    user_quotas: list[PlanQuotaResponse]
    content_days: int | None
    created_at: Moment


@router.post(
    "/plans",
    status_code=201,
    response_model=PlanResponse,
    openapi_extra=json_body(CreatePlanRequest, EXAMPLE),
    summary="Create a plan",
)
async def create_plan(caller: Operator) -> Response:
    """Put tenants on it with `POST /admin/tenants/{tenant_id}/plan`."""

    async def create(sent: CreatePlanRequest) -> PlanResponse:
        fields = {name: getattr(sent, name) for name in PlanTerms.__struct_fields__}
        return _plan_response(await plans.create_plan(caller.admin, sent.name, PlanTerms(**fields)))

    return await caller.once(CreatePlanRequest, create)


@router.get("/plans", summary="List the plans")
async def list_plans(caller: Operator, limit: Limit = 20, cursor: IdCursor = None) -> Page[PlanResponse]:
    found = await plans.list_plans(caller.admin, after=cursor or 0, limit=limit + 1)
    page = [_plan_response(plan) for plan in found[:limit]]
    return Page(data=page, next_cursor=str(page[-1].id) if len(found) > limit else None)


@router.get("/plans/{plan_id}", summary="A plan")
async def get_plan(plan_id: PlanId, caller: Operator, response: Response) -> PlanResponse:
    found = _plan_response(await plans.get_plan(caller.admin, plan_id))
    response.headers["ETag"] = etag(found)
    return found


@router.patch(
    "/plans/{plan_id}",
    openapi_extra=json_body(ChangePlanRequest, {"calls_per_user": "120/minute"}),
    summary="Change a plan",
)
async def change_plan(plan_id: PlanId, caller: Operator, response: Response) -> PlanResponse:
    """Rates, models and retention apply to its tenants within about a second. Quotas that exist stay as they are."""
    sent = changes_in(await caller.read(ChangePlanRequest))
    plan = await plans.get_plan(caller.admin, plan_id, to_change=True)
    caller.require_match(_plan_response(plan))
    name = sent.pop("name", None)
    terms = msgspec.structs.replace(read_terms(plan.document), **sent)
    changed = _plan_response(await plans.change_plan(caller.admin, plan, name=name, terms=terms))
    response.headers["ETag"] = etag(changed)
    return changed


@router.delete("/plans/{plan_id}", status_code=204, summary="Delete a plan that no tenant is on")
async def delete_plan(plan_id: PlanId, caller: Operator) -> None:
    await plans.delete_plan(caller.admin, await plans.get_plan(caller.admin, plan_id, to_change=True))


@router.post(
    "/tenants/{tenant_id}/plan",
    response_model=TenantResponse,
    openapi_extra=json_body(AssignPlanRequest, {"plan_id": 1, "reason": "Upgrade"}),
    summary="Put a tenant on a plan",
)
async def assign_plan(tenant_id: TenantId, caller: Operator) -> Response:
    """The plan's quotas of tenants are set. Other quotas stay, as those of its users do."""

    async def plan(sent: AssignPlanRequest) -> Assignment:
        return await plans.assign_plan(caller.admin, tenant_id, sent.plan_id, sent.reason)

    async def apply(assignment: Assignment) -> TenantResponse:
        await plans.apply_assignment(caller.admin, caller.services.ledger, assignment)
        return tenant_response(await tenants.get_tenant(caller.admin, assignment.tenant_id))

    return await caller.once_planned(AssignPlanRequest, plan, apply, Assignment)


def _plan_response(plan: Plan) -> PlanResponse:
    assert plan.id is not None
    terms: dict[str, Any] = msgspec.structs.asdict(read_terms(plan.document))
    for field in ("tenant_quotas", "user_quotas"):
        terms[field] = [PlanQuotaResponse(**msgspec.structs.asdict(one)) for one in terms[field]]
    return PlanResponse(id=plan.id, name=plan.name, created_at=iso(plan.created_ms), **terms)
