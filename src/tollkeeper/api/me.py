"""What have I got, what did I spend, and why."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from tollkeeper.api.dependencies import Parts, Reader, Session
from tollkeeper.api.formats import iso, usd
from tollkeeper.clock import SystemClock
from tollkeeper.quota import queries
from tollkeeper.quota.rules.balances import spendable
from tollkeeper.quota.rules.models import Charge
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import Subject

router = APIRouter(prefix="/me", tags=["me"])

MAX_PER_PAGE = 100


class Me(BaseModel):
    """The signed-in user."""

    email: str
    tenant: str
    role: str


class QuotaBalance(BaseModel):
    """How one quota stands in its present window. `reserved` is held by calls in flight."""

    name: str
    unit: str
    window: str
    limit: int
    used: int
    reserved: int
    remaining: int
    resets_at: str | None


class MyQuota(BaseModel):
    """What can be spent in front: the tightest quota; without a token quota of one's own, `user` with a limit of 0.
    `quotas` are all that apply, the tenant's too.
    """

    name: str
    limit: int
    used: int
    reserved: int
    remaining: int
    resets_at: str | None
    quotas: list[QuotaBalance]


class ChargeShown(BaseModel):
    """One call: what was held, what it used, what it cost and why. `cost` is in tokens after the model's weight."""

    id: str
    created_at: str | None
    closed_at: str | None
    surface: str
    model: str
    provider: str
    state: str
    basis: str | None
    reason: str
    error: str | None
    held: int
    granted_output: int
    input_tokens: int | None
    output_tokens: int | None
    cached_input_tokens: int | None
    cost: int
    cost_usd: str | None
    forgiven: int
    overrun: bool
    adjusted: bool
    refunded: bool


class ChargePage(BaseModel):
    """The newest first; `next_cursor` goes on where this page ends."""

    data: list[ChargeShown]
    next_cursor: str | None


@router.get("", summary="Who am I")
async def me(caller: Reader) -> Me:
    return Me(email=caller.user.email, tenant=caller.tenant.name, role=caller.user.role)


@router.get("/quota", summary="What have I got left")
async def my_quota(caller: Reader, session: Session, parts: Parts) -> MyQuota:
    principal = caller.principal
    now_ms = SystemClock().now_ms()
    own = await queries.balances_of(session, [Subject(principal.tenant_id, principal.user_id)], now_ms)
    tenants = await queries.balances_of(session, [Subject(principal.tenant_id)], now_ms)
    front: dict[str, Any] = _show_balance(spendable(own, tenants)).model_dump(exclude={"unit", "window"})
    return MyQuota(**front, quotas=[_show_balance(balance) for balance in (*own, *tenants)])


@router.get("/charges", summary="What did I spend")
async def my_charges(
    caller: Reader,
    session: Session,
    limit: Annotated[int, Query(ge=1, le=MAX_PER_PAGE)] = 20,
    cursor: Annotated[str | None, Query(max_length=40, pattern="^chg_[0-9a-f]+$")] = None,
) -> ChargePage:
    rows = await queries.charges_of(session, caller.principal.user_id, before=cursor, most=limit + 1)
    shown = [show_charge(row) for row in rows[:limit]]
    return ChargePage(data=shown, next_cursor=shown[-1].id if len(rows) > limit else None)


@router.get("/charges/{charge_id}", summary="Why did this cost what it cost")
async def my_charge(charge_id: str, caller: Reader, session: Session) -> ChargeShown:
    return show_charge(await queries.charge(session, charge_id, user_id=caller.principal.user_id))


def _show_balance(balance: Balance) -> QuotaBalance:
    return QuotaBalance(
        name=balance.quota,
        unit=balance.unit,
        window=balance.period,
        limit=balance.limit,
        used=balance.used,
        reserved=balance.reserved,
        remaining=balance.remaining,
        resets_at=iso(balance.resets_ms),
    )


def show_charge(charge: Charge) -> ChargeShown:
    """A charge as its owner sees it."""
    return ChargeShown(
        id=charge.id,
        created_at=iso(charge.created_ms),
        closed_at=iso(charge.closed_ms),
        surface=charge.surface,
        model=charge.model,
        provider=charge.provider,
        state=charge.state,
        basis=charge.basis,
        reason=queries.reason(charge),
        error=charge.error,
        held=charge.held_tokens,
        granted_output=charge.granted_output,
        input_tokens=charge.input_tokens,
        output_tokens=charge.output_tokens,
        cached_input_tokens=charge.cached_input_tokens,
        cost=charge.cost_tokens,
        cost_usd=usd(charge.cost_micro_usd),
        forgiven=charge.forgiven_tokens,
        overrun=charge.overrun,
        adjusted=charge.adjusted,
        refunded=charge.refunded,
    )
