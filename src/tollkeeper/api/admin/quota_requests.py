"""Requests for more quota: administrators list them, grant them, also in part, or decline them."""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Response
from msgspec import Meta

from tollkeeper.administration import quota_requests
from tollkeeper.administration.models import QuotaRequest, RequestStatus
from tollkeeper.administration.quotas import LimitPlan
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, NO_TENANT, IdCursor, Limit, Page
from tollkeeper.api.admin.reasons import Reason
from tollkeeper.api.admin.times import Time, epoch_ms
from tollkeeper.api.me import QuotaBalance, quota_balance
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.api.quota_requests import QuotaRequestResponse, quota_request_fields
from tollkeeper.quota.rules.windows import MAX_GRANTED

router = APIRouter(prefix="/admin/quota-requests", tags=["admin"])

DECIDED: dict[int | str, dict[str, Any]] = {
    409: {"description": "The request was decided otherwise, or a request with this Idempotency-Key runs"}
}
RequestId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[5])]
OfTenant = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])]
StatusName = Literal["pending", "granted", "declined"]


class GrantQuotaRequestRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`tokens` is how much is granted: at most what was asked for, which is the default. With `until`, it is granted
    for so long. The user sees the `reason`.
    """

    tokens: Annotated[int, Meta(ge=1, le=MAX_GRANTED)] | None = None
    reason: Reason | None = None
    until: Time | None = None


class DeclineQuotaRequestRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`reason` is shown to the user."""

    reason: Reason


class TenantQuotaRequestResponse(QuotaRequestResponse):
    """A request for more quota, with its user. `decided_by` and `operation` are as in the audit log."""

    tenant_id: int
    user_id: int
    decided_by: str | None
    operation: str | None


class GrantedQuotaRequestResponse(TenantQuotaRequestResponse):
    """A request that was granted, and the quota after it."""

    quota: QuotaBalance


@router.get("", responses=NO_TENANT, summary="Requests for more quota, the oldest first")
async def list_quota_requests(
    caller: TenantAdmin,
    status: Annotated[StatusName | None, Query(examples=["pending"])] = None,
    tenant_id: OfTenant = None,
    limit: Limit = 20,
    cursor: IdCursor = None,
) -> Page[TenantQuotaRequestResponse]:
    """Of your tenant; for operators, of all tenants, or of one."""
    wanted = RequestStatus(status) if status is not None else None
    found = await quota_requests.list_requests(caller.admin, tenant_id, wanted, after=cursor or 0, limit=limit + 1)
    page = [_response(row) for row in found[:limit]]
    return Page(data=page, next_cursor=str(page[-1].id) if len(found) > limit else None)


@router.get("/{request_id}", summary="A request for more quota")
async def get_quota_request(request_id: RequestId, caller: TenantAdmin) -> TenantQuotaRequestResponse:
    return _response(await quota_requests.get_request(caller.admin, request_id))


@router.post(
    "/{request_id}/grant",
    response_model=GrantedQuotaRequestResponse,
    responses=DECIDED,
    openapi_extra=json_body(GrantQuotaRequestRequest, {"tokens": 20_000, "reason": "Half of it, until the review"}),
    summary="Grant a request for more quota, or a part of it",
)
async def grant_quota_request(request_id: RequestId, caller: TenantAdmin) -> Response:
    """The tokens are added to the current window of the quota. The same grant again adds nothing."""

    async def plan(sent: GrantQuotaRequestRequest) -> LimitPlan:
        return await quota_requests.plan_grant(
            caller.admin, request_id, sent.tokens, sent.reason, until_ms=epoch_ms(sent.until)
        )

    async def apply(planned: LimitPlan) -> GrantedQuotaRequestResponse:
        balance = await quota_requests.apply_grant(caller.admin, caller.services.ledger, request_id, planned)
        granted = await quota_requests.get_request(caller.admin, request_id)
        return GrantedQuotaRequestResponse(**_fields(granted), quota=quota_balance(balance))

    return await caller.once_planned(GrantQuotaRequestRequest, plan, apply, LimitPlan)


@router.post(
    "/{request_id}/decline",
    response_model=TenantQuotaRequestResponse,
    responses=DECIDED,
    openapi_extra=json_body(DeclineQuotaRequestRequest, {"reason": "The budget of this month is spent"}),
    summary="Decline a request for more quota",
)
async def decline_quota_request(request_id: RequestId, caller: TenantAdmin) -> Response:
    async def decline(sent: DeclineQuotaRequestRequest) -> TenantQuotaRequestResponse:
        return _response(await quota_requests.decline(caller.admin, request_id, sent.reason))

    return await caller.once(DeclineQuotaRequestRequest, decline, status=200)


def _response(request: QuotaRequest) -> TenantQuotaRequestResponse:
    return TenantQuotaRequestResponse(**_fields(request))


def _fields(request: QuotaRequest) -> dict[str, Any]:
    return quota_request_fields(request) | {
        "tenant_id": request.tenant_id,
        "user_id": request.user_id,
        "decided_by": request.decided_by,
        "operation": request.operation_id,
    }
