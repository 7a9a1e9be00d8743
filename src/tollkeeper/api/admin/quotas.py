"""Quotas: operators change all; a tenant's administrator changes all of the tenant but the tenant's own."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.administration import quotas
from tollkeeper.administration.quotas import LimitPlan, OwnerIds
from tollkeeper.api.admin.caller import AdminCaller, TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, NO_OWNER, IdCursor, Limit, Page
from tollkeeper.api.admin.reasons import Reason, ReasonInQuery
from tollkeeper.api.admin.times import Time, epoch_ms
from tollkeeper.api.me import QuotaBalance, quota_balance
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.errors import InvalidRequest, ModelNotFound
from tollkeeper.providers.catalog import MAX_NAME_LENGTH
from tollkeeper.quota.changes import Action, QuotaChange, spent_rule
from tollkeeper.quota.rules.limit_changes import SpentRule
from tollkeeper.quota.rules.models import Unit, WhenSpent
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import Subject
from tollkeeper.quota.rules.subjects import SubjectKind, owner_of, template_name
from tollkeeper.quota.rules.windows import MAX_GRANTED, Period

router = APIRouter(prefix="/admin/quotas", tags=["admin"])

IN_FLIGHT: dict[int | str, dict[str, Any]] = {
    409: {"description": "A request with this Idempotency-Key has begun a moment ago"}
}
WindowName = Literal["minute", "hour", "day", "week", "month", "total"]
UnitName = Literal["tokens", "micro_usd", "requests", "concurrency"]
KEY_PATTERN = "^key_[0-9a-f]{24}$"
TAG_PATTERN = r"^[A-Za-z][A-Za-z0-9._-]{0,39}=[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63}$"
EXAMPLE_KEY = "key_0123456789abcdef01234567"
Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
OfUser = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[17])]
OfTenant = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])]
OfGroup = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[3])]
TEMPLATE_PATTERN = r"^(user|key|conversation|tag:[A-Za-z][A-Za-z0-9._-]{0,39})$"
OfEach = Annotated[str | None, Query(max_length=44, pattern=TEMPLATE_PATTERN, examples=["user", "tag:run"])]
OfTag = Annotated[str | None, Query(max_length=105, pattern=TAG_PATTERN, examples=["cost-centre=42"])]
OfKey = Annotated[str | None, Query(pattern=KEY_PATTERN, examples=[EXAMPLE_KEY])]
InUnit = Annotated[UnitName, Query(examples=["requests"])]
OfWindow = Annotated[WindowName | None, Query(examples=["hour"])]


class _QuotaRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Whose quota: a user's, an API key's, a group's or a tenant's; or of the calls with a tag, as name=value, of a
    tenant, by default your own; or, with `for_each`, a template of such a tenant: each user, API key (`key`),
    conversation, or value of a tag (`tag:run` for the tag `run`) has this quota, unless one of its own with the same
    unit and window replaces it. The window can be absent if they have one quota in this unit. Concurrency, the number
    of calls in flight at the same time, has the window `total`.
    """

    user_id: Id | None = None
    tenant_id: Id | None = None
    key_id: Annotated[str, Meta(pattern=KEY_PATTERN)] | None = None
    group_id: Id | None = None
    tag: Annotated[str, Meta(pattern=TAG_PATTERN, examples=["cost-centre=42"])] | None = None
    for_each: Annotated[str, Meta(pattern=TEMPLATE_PATTERN, examples=["user", "tag:run"])] | None = None
    unit: UnitName = "tokens"
    window: WindowName | None = None
    reason: Reason


class SetQuotaRequest(_QuotaRequest, kw_only=True):
    """The limit of a quota, per window. It is created if they have none. `when_spent` is what it
    does with a call for which it has no room: `block`, the default of a new quota; `fallback_model`, with the name of
    the model that answers instead; or `report_only`. Without it, that stays as it is. `rollover` is how much of what is
    unused in a window the next one gets, at most; 0 for nothing; without it, that stays as it is.
    """

    limit: Annotated[int, Meta(ge=0, le=MAX_GRANTED)]
    when_spent: Literal["block", "fallback_model", "report_only"] | None = None
    fallback_model: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)] | None = None
    rollover: Annotated[int, Meta(ge=0, le=MAX_GRANTED)] | None = None


class GrantQuotaRequest(_QuotaRequest, kw_only=True):
    """How much is added to the current window of a quota; with `until`, for so long."""

    amount: Annotated[int, Meta(ge=1, le=MAX_GRANTED)]
    until: Time | None = None


class OverrideQuotaRequest(_QuotaRequest, kw_only=True):
    """The limit of a user's or a tenant's quota from `from` (now, if absent) until `until`. What was granted is on top
    of it. Of several overrides of one time, the newest counts.
    """

    limit: Annotated[int, Meta(ge=0, le=MAX_GRANTED)]
    until: Time
    from_: Time | None = msgspec.field(default=None, name="from")


class QuotasResponse(BaseModel):
    """The quotas of a tag, a group, an API key or a user, or without these of a tenant, each with its present window.
    Those that a user, an API key or a tag has of a template are among them. With `for_each`, the templates themselves.
    """

    tenant_id: int
    user_id: int | None
    key_id: str | None = None
    group_id: int | None = None
    tag: str | None = None
    for_each: str | None = None
    quotas: list[QuotaBalance]


class QuotaChangeResponse(BaseModel):
    """A quota after a change, and the operation that the audit log and the ledger's entries name."""

    tenant_id: int
    user_id: int | None
    key_id: str | None = None
    group_id: int | None = None
    tag: str | None = None
    for_each: str | None = None
    operation: str
    quota: QuotaBalance


@router.get("", responses=NO_OWNER, summary="Quotas and what remains of them")
async def list_quotas(
    caller: TenantAdmin,
    user_id: OfUser = None,
    tenant_id: OfTenant = None,
    key_id: OfKey = None,
    group_id: OfGroup = None,
    tag: OfTag = None,
    for_each: OfEach = None,
    limit: Limit = 20,
    cursor: IdCursor = None,
) -> Page[QuotasResponse]:
    """With `user_id`, `key_id`, `group_id` or `tag`, those of a user, an API key, a group or a tag; with `for_each`,
    the templates of a tenant. Otherwise those of a tenant, by default your own, and of all its users.
    """
    ids = OwnerIds(user_id, tenant_id, key_id, group_id, tag, for_each)
    owner = await quotas.find_owner(caller.admin, ids, default=caller.principal.tenant_id)
    if owner.kind is not SubjectKind.TENANT:
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
        return await _plan(caller, sent, Action.SET, sent.limit, _spent_rule(caller, sent), rollover_cap=sent.rollover)

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
    """The limit of later windows does not change. A grant ends with its window, or before, at `until`."""

    async def plan(sent: GrantQuotaRequest) -> LimitPlan:
        return await _plan(caller, sent, Action.GRANT, sent.amount, until_ms=epoch_ms(sent.until))

    return await caller.once_planned(GrantQuotaRequest, plan, _applying(caller), LimitPlan)


@router.post(
    "/override",
    response_model=QuotaChangeResponse,
    responses=NO_OWNER | IN_FLIGHT,
    openapi_extra=json_body(
        OverrideQuotaRequest,
        {"user_id": 17, "window": "day", "limit": 200_000, "until": "2038-01-16T00:00:00Z", "reason": "The launch"},
    ),
    summary="Override a limit for a time",
)
async def override_quota(caller: TenantAdmin) -> Response:
    """It ends by itself: the limit of the quota counts again, also in the window that is current then."""

    async def plan(sent: OverrideQuotaRequest) -> LimitPlan:
        from_ms, until_ms = epoch_ms(sent.from_), epoch_ms(sent.until)
        return await _plan(caller, sent, Action.OVERRIDE, sent.limit, from_ms=from_ms, until_ms=until_ms)

    return await caller.once_planned(OverrideQuotaRequest, plan, _applying(caller), LimitPlan)


@router.delete("", status_code=204, responses=NO_OWNER, summary="Remove a quota or a template")
async def remove_quota(
    caller: TenantAdmin,
    reason: ReasonInQuery,
    user_id: OfUser = None,
    tenant_id: OfTenant = None,
    key_id: OfKey = None,
    group_id: OfGroup = None,
    tag: OfTag = None,
    for_each: OfEach = None,
    unit: InUnit = "tokens",
    window: OfWindow = None,
) -> None:
    """No later call holds on it. Calls in flight are settled on it, and its windows, entries and reports stay. A quota
    that is set later is another one, of which nothing is used. A user without a token quota cannot make any call.
    """
    ids = OwnerIds(user_id, tenant_id, key_id, group_id, tag, for_each)
    period = Period(window) if window is not None else None
    await quotas.remove_quota(caller.admin, caller.services.ledger, ids, Unit(unit), period, reason)


async def _plan(
    caller: AdminCaller,
    sent: _QuotaRequest,
    action: Action,
    amount: int,
    when_spent: SpentRule | None = None,
    *,
    from_ms: int | None = None,
    until_ms: int | None = None,
    rollover_cap: int | None = None,
) -> LimitPlan:
    ids = OwnerIds(sent.user_id, sent.tenant_id, sent.key_id, sent.group_id, sent.tag, sent.for_each)
    target = await quotas.find_target(caller.admin, ids)
    window = Period(sent.window) if sent.window is not None else None
    request = QuotaChange(
        target, action, amount, sent.reason, window, Unit(sent.unit), when_spent, from_ms, until_ms, rollover_cap
    )
    return await quotas.plan_changes(caller.admin, [request])


def _spent_rule(caller: AdminCaller, sent: SetQuotaRequest) -> SpentRule | None:
    """Raises InvalidRequest for a model that there is not."""
    rule = spent_rule(WhenSpent(sent.when_spent) if sent.when_spent is not None else None, sent.fallback_model)
    if rule is not None and rule.fallback_model is not None:
        try:
            caller.services.gateway.catalog.configured_model(rule.fallback_model)
        except ModelNotFound:
            raise InvalidRequest("There is no such model. GET /ai/models lists the models.") from None
    return rule


def _applying(caller: AdminCaller) -> Callable[[LimitPlan], Awaitable[QuotaChangeResponse]]:
    async def apply(plan: LimitPlan) -> QuotaChangeResponse:
        (balance,) = await quotas.apply_changes(caller.admin, caller.services.ledger, plan)
        (change,) = plan.changes
        return QuotaChangeResponse(
            **_owner_fields(change.subject),
            operation=plan.operation_id,
            quota=quota_balance(balance),
        )

    return apply


def _quotas_response(subject: Subject, balances: list[Balance]) -> QuotasResponse:
    return QuotasResponse(**_owner_fields(subject), quotas=[quota_balance(balance) for balance in balances])


def _owner_fields(subject: Subject) -> dict[str, Any]:
    """The fields of a response that name the owner of a quota; of one that is a template's, who has it."""
    subject = owner_of(subject)
    return {
        "tenant_id": subject.tenant_id,
        "user_id": subject.user_id,
        "key_id": subject.name if subject.kind is SubjectKind.KEY else None,
        "group_id": int(subject.name) if subject.kind is SubjectKind.GROUP else None,
        "tag": subject.name if subject.kind is SubjectKind.TAG else None,
        "for_each": template_name(subject),
    }
