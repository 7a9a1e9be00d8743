"""Quotas: operators change all; a tenant's administrator changes those of its users, not the tenant's own."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.administration import quotas
from tollkeeper.administration.quotas import LimitPlan
from tollkeeper.api.admin.caller import AdminCaller, TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, NO_OWNER, IdCursor, Limit, Page
from tollkeeper.api.admin.reasons import Reason
from tollkeeper.api.me import QuotaBalance, quota_balance
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.quota.changes import Action, QuotaChange
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import Subject
from tollkeeper.quota.rules.windows import MAX_GRANTED, Period

router = APIRouter(prefix="/admin/quotas", tags=["admin"])

IN_FLIGHT: dict[int | str, dict[str, Any]] = {
    409: {"description": "A request with this Idempotency-Key has begun a moment ago"}
}
WindowName = Literal["minute", "hour", "day", "month", "total"]
UnitName = Literal["tokens", "micro_usd"]
Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
OfUser = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[17])]
OfTenant = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])]


class _QuotaRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Whose quota: a user's or a tenant's. The window can be absent if they have one quota in this unit."""

    user_id: Id | None = None
    tenant_id: Id | None = None
    unit: UnitName = "tokens"
    window: WindowName | None = None
    reason: Reason


class SetQuotaRequest(_QuotaRequest, kw_only=True):
    """The limit of a user's or a tenant's quota, per window. It is created if they have none."""

    limit: Annotated[int, Meta(ge=0, le=MAX_GRANTED)]


class GrantQuotaRequest(_QuotaRequest, kw_only=True):
    """How much is added to the current window of a user's or a tenant's quota."""

    amount: Annotated[int, Meta(ge=1, le=MAX_GRANTED)]


class QuotasResponse(BaseModel):
    """The quotas of a user or, without `user_id`, of a tenant, each with its present window."""

    tenant_id: int
    user_id: int | None
    quotas: list[QuotaBalance]


class QuotaChangeResponse(BaseModel):
    """A quota after a change, and the operation that the audit log and the ledger's entries name."""

    tenant_id: int
    user_id: int | None
    operation: str
    quota: QuotaBalance


@router.get("", responses=NO_OWNER, summary="Quotas and what remains of them")
async def list_quotas(
    caller: TenantAdmin, user_id: OfUser = None, tenant_id: OfTenant = None, limit: Limit = 20, cursor: IdCursor = None
) -> Page[QuotasResponse]:
    """With `user_id`, those of a user. Otherwise those of a tenant, by default your own, and of all its users."""
    default = caller.principal.tenant_id
    owner = await quotas.find_owner(caller.admin, user_id=user_id, tenant_id=tenant_id, default=default)
    if owner.user_id is not None:
        balances = await quotas.balances_of(caller.admin, owner)
        return Page(data=[_quotas_response(owner, balances)], next_cursor=None)
    found, following = await quotas.list_quotas(caller.admin, owner.tenant_id, after=cursor or 0, limit=limit)
    next_cursor = str(following) if following is not None else None
    return Page(data=[_quotas_response(*one) for one in found], next_cursor=next_cursor)


@router.post(
    "",
    response_model=QuotaChangeResponse,
    responses=NO_OWNER | IN_FLIGHT,
    openapi_extra=json_body(
        SetQuotaRequest, {"user_id": 17, "window": "day", "limit": 50_000, "reason": "A new project"}
    ),
    summary="Set a limit",
)
async def set_quota(caller: TenantAdmin) -> Response:
    """The limit of windows to come, and of the current one: its usage stays, and what was granted to it."""

    async def plan(sent: SetQuotaRequest) -> LimitPlan:
        return await _plan(caller, sent, Action.SET, sent.limit)

    return await caller.once_planned(SetQuotaRequest, plan, _applying(caller), LimitPlan)


@router.post(
    "/grant",
    response_model=QuotaChangeResponse,
    responses=NO_OWNER | IN_FLIGHT,
    openapi_extra=json_body(
        GrantQuotaRequest, {"user_id": 17, "window": "day", "amount": 10_000, "reason": "The batch of Friday"}
    ),
    summary="Grant more to the current window",
)
async def grant_quota(caller: TenantAdmin) -> Response:
    """The limit of later windows does not change."""

    async def plan(sent: GrantQuotaRequest) -> LimitPlan:
        return await _plan(caller, sent, Action.GRANT, sent.amount)

    return await caller.once_planned(GrantQuotaRequest, plan, _applying(caller), LimitPlan)


async def _plan(caller: AdminCaller, sent: _QuotaRequest, action: Action, amount: int) -> LimitPlan:
    target = await quotas.find_target(caller.admin, user_id=sent.user_id, tenant_id=sent.tenant_id)
    window = Period(sent.window) if sent.window is not None else None
    request = QuotaChange(target, action, amount, sent.reason, window, Unit(sent.unit))
    return await quotas.plan_changes(caller.admin, [request])


def _applying(caller: AdminCaller) -> Callable[[LimitPlan], Awaitable[QuotaChangeResponse]]:
    async def apply(plan: LimitPlan) -> QuotaChangeResponse:
        (balance,) = await quotas.apply_changes(caller.admin, caller.services.ledger, plan)
        (change,) = plan.changes
        return QuotaChangeResponse(
            tenant_id=change.tenant_id,
            user_id=change.user_id,
            operation=plan.operation_id,
            quota=quota_balance(balance),
        )

    return apply


def _quotas_response(subject: Subject, balances: list[Balance]) -> QuotasResponse:
    return QuotasResponse(
        tenant_id=subject.tenant_id, user_id=subject.user_id, quotas=[quota_balance(balance) for balance in balances]
    )
