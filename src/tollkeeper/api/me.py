"""The caller's own account: the user, the quotas and the charges."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel

from tollkeeper.api.attribution import attribute
from tollkeeper.api.dependencies import AccountReader, AuthenticatedUser, ServicesDep, SessionDep
from tollkeeper.api.formats import Moment, iso, usd
from tollkeeper.identity.declared_tags import declared_tags
from tollkeeper.identity.groups import groups_of
from tollkeeper.identity.tag_values import find_new
from tollkeeper.quota import queries
from tollkeeper.quota.reasons import reason
from tollkeeper.quota.rules.balances import spendable
from tollkeeper.quota.rules.models import Charge
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import Subject
from tollkeeper.tags import decode_tags, split_tag
from tollkeeper.tenant_scope import TenantScope

router = APIRouter(prefix="/me", tags=["me"])

MAX_PAGE_SIZE = 100

EXAMPLE_ID = "chg_019ac3f2b7d47c1e9f0a5b6c7d8e9f01"
ChargeId = Annotated[str, Path(examples=[EXAMPLE_ID])]


class MyGroup(BaseModel):
    """A group that the user is a member of. Calls that name no group count for the default one."""

    name: str
    default: bool


class MyTag(BaseModel):
    """A tag that the tenant declares. Calls without one that is required are refused."""

    name: str
    required: bool


class MeResponse(BaseModel):
    """The authenticated user. `content_logging`: administrators of the tenant can read the prompts and answers of your
    calls. `second_factor`: a login with the password needs a code too.
    """

    email: str
    tenant: str
    role: str
    content_logging: bool
    second_factor: bool
    groups: list[MyGroup]
    tags: list[MyTag]


class QuotaBalance(BaseModel):
    """One quota and its present window. Calls in flight hold `reserved`. `when_spent`: a quota blocks calls that it has
    no room for; or has `fallback_model` answer them; or it only reports, and blocks none. `rolled_over` is the part of
    the limit that was unused in the window before; the next window gets at most `rollover`.
    """

    name: str
    unit: str
    window: str
    limit: int
    used: int
    reserved: int
    remaining: int
    resets_at: Moment | None
    when_spent: Literal["block", "fallback_model", "report_only"]
    fallback_model: str | None
    rolled_over: int
    rollover: int | None


class MyQuotaResponse(BaseModel):
    """What can be spent: the tightest quota; for a user without a token quota, `user` with a limit of 0.
    `quotas` are all that apply, those of the tenant, the API key, the group and the tags of the request included.
    """

    name: str
    limit: int
    used: int
    reserved: int
    remaining: int
    resets_at: Moment | None
    quotas: list[QuotaBalance]


class ChargeResponse(BaseModel):
    """One call: what was held, what it used, what it cost and why. `cost` is in tokens times the model's weight.
    `key_id` is the API key of the call, `group_id` the group that it counts for.
    """

    id: str
    created_at: Moment
    closed_at: Moment | None
    key_id: str | None
    group_id: int | None
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
    tags: dict[str, str] = {}


class ChargePage(BaseModel):
    """The newest charges first. `next_cursor` is the cursor of the next page."""

    data: list[ChargeResponse]
    next_cursor: str | None


@router.get("", summary="My account")
async def get_me(caller: AccountReader, session: SessionDep, services: ServicesDep) -> MeResponse:
    principal, tenant_id = caller.principal, caller.principal.tenant_id
    return MeResponse(
        email=caller.user.email,
        tenant=caller.tenant.name,
        role=caller.user.role,
        content_logging=caller.tenant.content_logging,
        second_factor=await services.second_factors.is_confirmed(session, principal.user_id),
        groups=[MyGroup(name=name, default=is_default) for name, is_default in await groups_of(session, principal)],
        tags=[MyTag(name=name, required=is_required) for name, is_required in await declared_tags(session, tenant_id)],
    )


@router.get("/quota", summary="My quotas and what remains of them")
async def get_my_quota(
    request: Request,
    caller: AccountReader,
    session: SessionDep,
    services: ServicesDep,
    session_id: Annotated[str | None, Query(max_length=100, examples=["talk-1"])] = None,
) -> MyQuotaResponse:
    """With the headers `X-Tollkeeper-Group` and `X-Tollkeeper-Tags`, as for a call for this group with these tags; with
    `session_id`, as for one that continues this conversation. Tags that are not declared are refused, as of a call.
    """
    principal = replace(attribute(caller.principal, request.scope["headers"]), conversation=session_id)
    for tag in principal.tags or ():
        await find_new(session, principal.tenant_id, tag)
    now_ms = services.clock.now_ms()
    own = await queries.balances_of(session, [Subject(principal.tenant_id, principal.user_id)], now_ms)
    others = await queries.balances_of(session, await queries.shared_subjects(session, principal), now_ms)
    tightest: dict[str, Any] = quota_balance(spendable(own, others)).model_dump(
        exclude={"unit", "window", "when_spent", "fallback_model", "rolled_over", "rollover"}
    )
    return MyQuotaResponse(**tightest, quotas=[quota_balance(balance) for balance in (*own, *others)])


@router.get("/charges", summary="My charges")
async def list_my_charges(
    caller: AccountReader,
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, examples=[50])] = 20,
    cursor: Annotated[str | None, Query(max_length=40, pattern="^chg_[0-9a-f]+$", examples=[EXAMPLE_ID])] = None,
) -> ChargePage:
    rows = await queries.charges_of(session, _owner(caller), before=cursor, limit=limit + 1)
    charges = [charge_response(row) for row in rows[:limit]]
    return ChargePage(data=charges, next_cursor=charges[-1].id if len(rows) > limit else None)


@router.get("/charges/{charge_id}", summary="One of my charges, and the reason for its cost")
async def get_my_charge(charge_id: ChargeId, caller: AccountReader, session: SessionDep) -> ChargeResponse:
    return charge_response(
        await queries.charge(
            session, charge_id, TenantScope(caller.principal.tenant_id), user_id=caller.principal.user_id
        )
    )


def _owner(caller: AuthenticatedUser) -> Subject:
    return Subject(caller.principal.tenant_id, caller.principal.user_id)


def quota_balance(balance: Balance) -> QuotaBalance:
    """A quota in its present window, as a response."""
    return QuotaBalance(
        name=balance.quota,
        unit=balance.unit,
        window=balance.period,
        limit=balance.limit,
        used=balance.used,
        reserved=balance.reserved,
        remaining=balance.remaining,
        resets_at=iso(balance.resets_ms),
        when_spent=balance.when_spent.value,
        fallback_model=balance.fallback_model,
        rolled_over=balance.rolled_over,
        rollover=balance.rollover_cap,
    )


def charge_response(charge: Charge) -> ChargeResponse:
    """A charge, as a response."""
    return ChargeResponse(
        id=charge.id,
        created_at=iso(charge.created_ms),
        closed_at=iso(charge.closed_ms),
        key_id=charge.key_id,
        group_id=charge.group_id,
        surface=charge.surface,
        model=charge.model,
        provider=charge.provider,
        state=charge.state,
        basis=charge.basis,
        reason=reason(charge),
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
        tags=dict(map(split_tag, decode_tags(charge.tags))),
    )
