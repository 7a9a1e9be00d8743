"""Charges: what calls cost and why, with the ledger's entries; and refunds."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from tollkeeper.administration import charges, quotas
from tollkeeper.administration.charges import RefundPlan
from tollkeeper.administration.quotas import OwnerIds
from tollkeeper.api.admin.caller import AdminCaller, Operator, TenantAdmin
from tollkeeper.api.admin.pages import NO_OWNER, Limit, Page
from tollkeeper.api.admin.quotas import OfTenant, OfUser
from tollkeeper.api.admin.reasons import Reason
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.me import EXAMPLE_ID, ChargeId, ChargeResponse, charge_response
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.quota.rules.models import Charge, Entry

router = APIRouter(prefix="/admin/charges", tags=["admin"])

ChargeCursor = Annotated[str | None, Query(max_length=40, pattern="^chg_[0-9a-f]{32}$", examples=[EXAMPLE_ID])]


class RefundRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Why a charge is refunded."""

    reason: Reason


class TenantChargeResponse(ChargeResponse):
    """A charge, and whose it is."""

    tenant_id: int
    user_id: int


class EntryResponse(BaseModel):
    """One immutable line of the ledger: by how much each balance of a quota's window changed, by whom and why.

    Amounts are in the quota's unit.
    """

    at: Moment
    quota: str
    kind: str
    granted: int
    settled: int
    pending: int
    forgiven: int
    actor: str | None
    reason: str | None


class ExplainedChargeResponse(TenantChargeResponse):
    """A charge with the ledger's entries of it, in the order of writing."""

    entries: list[EntryResponse]


@router.get("", responses=NO_OWNER, summary="Charges of a tenant or a user, the newest first")
async def list_charges(
    caller: TenantAdmin,
    user_id: OfUser = None,
    tenant_id: OfTenant = None,
    limit: Limit = 20,
    cursor: ChargeCursor = None,
) -> Page[TenantChargeResponse]:
    """With neither `user_id` nor `tenant_id`, those of your own tenant."""
    ids, default = OwnerIds(user_id, tenant_id), caller.principal.tenant_id
    owner = await quotas.find_owner(caller.admin, ids, default=default)
    rows = await charges.list_charges(caller.admin, owner, before=cursor, limit=limit + 1)
    page = [_tenant_charge_response(row) for row in rows[:limit]]
    return Page(data=page, next_cursor=page[-1].id if len(rows) > limit else None)


@router.get("/{charge_id}", summary="One charge, the reason for its cost, and its entries")
async def get_charge(charge_id: ChargeId, caller: TenantAdmin) -> ExplainedChargeResponse:
    return await _explain(caller, charge_id)


@router.post(
    "/{charge_id}/refund",
    response_model=ExplainedChargeResponse,
    responses={409: {"description": "The charge cannot be refunded, or a request with this Idempotency-Key runs"}},
    openapi_extra=json_body(RefundRequest, {"reason": "The provider was down"}),
    summary="Give the cost of a charge back",
)
async def refund_charge(charge_id: ChargeId, caller: Operator) -> Response:
    """The cost returns to the windows that were charged, those of the tenant too, so it is an operator's to give back.
    A charge is refunded once.
    """

    async def plan(sent: RefundRequest) -> RefundPlan:
        return await charges.plan_refund(caller.admin, charge_id, sent.reason)

    async def apply(planned: RefundPlan) -> ExplainedChargeResponse:
        await charges.apply_refund(caller.admin, caller.services.ledger, planned)
        return await _explain(caller, charge_id)

    return await caller.once_planned(RefundRequest, plan, apply, RefundPlan)


async def _explain(caller: AdminCaller, charge_id: str) -> ExplainedChargeResponse:
    charge = await charges.get_charge(caller.admin, charge_id)
    entries = await charges.entries_of(caller.admin, charge)
    fields = _tenant_charge_response(charge).model_dump()
    return ExplainedChargeResponse(**fields, entries=[_entry_response(entry, quota) for entry, quota in entries])


def _tenant_charge_response(charge: Charge) -> TenantChargeResponse:
    fields = charge_response(charge).model_dump()
    return TenantChargeResponse(**fields, tenant_id=charge.tenant_id, user_id=charge.user_id)


def _entry_response(entry: Entry, quota: str) -> EntryResponse:
    return EntryResponse(
        at=iso(entry.at_ms),
        quota=quota,
        kind=entry.kind,
        granted=entry.granted,
        settled=entry.settled,
        pending=entry.pending,
        forgiven=entry.forgiven,
        actor=entry.actor,
        reason=entry.reason,
    )
