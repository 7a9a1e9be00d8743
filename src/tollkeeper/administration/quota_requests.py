"""Requests for more quota: users ask, administrators grant, also in part, or decline.

A grant is an operation of the ledger, which commits for itself: it is planned as in `quotas.py`. The request keeps the
operation's id. So a grant that is repeated, after a crash between both commits, say, is applied once.
"""

from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.administration import quotas
from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.models import QuotaRequest, RequestStatus
from tollkeeper.administration.quotas import LimitPlan, OwnerIds, PlannedLimit
from tollkeeper.administration.tenants import get_tenant
from tollkeeper.errors import InvalidRequest, LedgerConflict, NotFound
from tollkeeper.principal import Principal
from tollkeeper.quota import queries
from tollkeeper.quota.changes import Action, QuotaChange, plan_change
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import Subject
from tollkeeper.quota.rules.windows import Period
from tollkeeper.webhooks.events import EventType, put_event

KEPT_MS = 400 * 86_400_000
"""How long a decided request is kept: as long as the charges of its time, about 13 months."""
_EVENTS = {RequestStatus.GRANTED: EventType.QUOTA_GRANTED, RequestStatus.DECLINED: EventType.QUOTA_DECLINED}
ALREADY_DECIDED = "This request has been decided already."


async def ask(
    session: AsyncSession, caller: Principal, tokens: int, window: Period | None, reason: str, now_ms: int
) -> QuotaRequest:
    """Ask for more tokens in the current window of a quota. Without a `window`, the caller must have one token quota.

    It replaces the caller's request for this window that is still pending, and has an id of its own: who grants a
    request by its id grants what they have read. Raises InvalidRequest for a quota that the caller does not have;
    LedgerConflict if the caller asks twice at the same time.
    """
    period = await _own_period(session, caller, window)
    are_theirs = col(QuotaRequest.tenant_id) == caller.tenant_id, col(QuotaRequest.user_id) == caller.user_id
    await _delete_old(session, caller, now_ms)
    is_pending = col(QuotaRequest.status) == RequestStatus.PENDING.value, col(QuotaRequest.period) == period.value
    setting_aside = update(QuotaRequest).where(*are_theirs, *is_pending).returning(col(QuotaRequest.id))
    declined = {"status": RequestStatus.DECLINED.value, "decided_ms": now_ms}
    replaced = (await session.exec(setting_aside.values(**declined))).scalars().all()
    request = QuotaRequest(
        tenant_id=caller.tenant_id,
        user_id=caller.user_id,
        period=period.value,
        tokens=tokens,
        reason=reason,
        created_ms=now_ms,
    )
    session.add(request)
    try:
        await session.flush()
    except IntegrityError as error:
        raise LedgerConflict("You have asked for this window a moment ago. Try again.") from error
    # After the insert: SQLite would give the id of a row that is deleted before it to the new one.
    await session.exec(delete(QuotaRequest).where(*are_theirs, col(QuotaRequest.id).in_(replaced)))
    await _put_event(session, request, EventType.QUOTA_REQUESTED, now_ms)
    return request


async def _delete_old(session: AsyncSession, caller: Principal, now_ms: int) -> None:
    are_theirs = col(QuotaRequest.tenant_id) == caller.tenant_id, col(QuotaRequest.user_id) == caller.user_id
    old = delete(QuotaRequest).where(*are_theirs, col(QuotaRequest.decided_ms) < now_ms - KEPT_MS)
    await session.exec(old)


async def _own_period(session: AsyncSession, caller: Principal, window: Period | None) -> Period:
    own = await queries.quotas_of(session, Subject(caller.tenant_id, caller.user_id))
    periods = [quota.key.period for quota in own if quota.key.unit is Unit.TOKENS]
    if window is None and len(periods) == 1:
        return periods[0]
    if window in periods:
        return window
    if not periods:
        raise InvalidRequest("You have no token quota to ask more for. An administrator must set one first.")
    raise InvalidRequest(f"Name the window of one of your token quotas: {', '.join(periods)}.")


async def list_own(session: AsyncSession, caller: Principal, *, before: int | None, limit: int) -> list[QuotaRequest]:
    """At most `limit` requests of the caller, the newest first; with `before`, those with smaller ids."""
    query = select(QuotaRequest).where(
        QuotaRequest.tenant_id == caller.tenant_id, QuotaRequest.user_id == caller.user_id
    )
    if before is not None:
        query = query.where(col(QuotaRequest.id) < before)
    return list((await session.exec(query.order_by(col(QuotaRequest.id).desc()).limit(limit))).all())


async def list_requests(
    admin: Administrator, tenant_id: int | None, status: RequestStatus | None, *, after: int, limit: int
) -> list[QuotaRequest]:
    """At most `limit` requests with ids above `after`, the oldest first: of a tenant, or of all that the administrator
    may see. Raises NotFound for a tenant that the administrator may not see.
    """
    if tenant_id is not None:
        await get_tenant(admin, tenant_id)
    scope = admin.scope.narrow(tenant_id)
    query = select(QuotaRequest).where(scope.condition(col(QuotaRequest.tenant_id)), col(QuotaRequest.id) > after)
    if status is not None:
        query = query.where(QuotaRequest.status == status.value)
    return list((await admin.session.exec(query.order_by(col(QuotaRequest.id)).limit(limit))).all())


async def get_request(admin: Administrator, request_id: int, *, to_change: bool = False) -> QuotaRequest:
    """One request that the administrator may see; locked, if it is to be changed. Raises NotFound."""
    is_visible = admin.scope.condition(col(QuotaRequest.tenant_id))
    query = select(QuotaRequest).where(QuotaRequest.id == request_id, is_visible)
    if to_change:
        query = query.with_for_update().execution_options(populate_existing=True)
    found = (await admin.session.exec(query)).first()
    if found is None:
        raise NotFound
    return found


async def plan_grant(
    admin: Administrator, request_id: int, tokens: int | None, reason: str | None, *, until_ms: int | None = None
) -> LimitPlan:
    """Grant a request, or so many tokens of it, perhaps only until a time, and note that. The transaction must be
    committed before the plan is applied. A request that was granted as much before has the same plan again.

    Raises NotFound; Forbidden; InvalidRequest for more than was asked for, or without the quota; LedgerConflict for a
    request that was decided otherwise.
    """
    request = await get_request(admin, request_id, to_change=True)
    amount = request.tokens if tokens is None else tokens
    if amount > request.tokens:
        raise InvalidRequest(f"The request is for {request.tokens:,} tokens: grant at most as many.")
    target = await quotas.find_target(admin, OwnerIds(user_id=request.user_id))
    wanted = QuotaChange(
        target, Action.GRANT, amount, reason or request.reason, Period(request.period), until_ms=until_ms
    )
    change = await plan_change(admin.session, wanted, admin.now_ms)
    if not await _claim(admin, request, RequestStatus.GRANTED, reason, granted_tokens=amount):
        return _plan_of(request, amount, until_ms)
    plan = await quotas.note_changes(admin, [change])
    request.operation_id = plan.operation_id
    await _note(admin, request, RequestStatus.GRANTED)
    return plan


async def apply_grant(admin: Administrator, ledger: Ledger, request_id: int, plan: LimitPlan) -> Balance:
    """Apply a plan that is committed, once. Returns the balance of the quota after it.

    Raises InvalidRequest, NotFound: the request is then pending again; LedgerUnavailable: then it may have been
    applied, or not.
    """
    try:
        (balance,) = await quotas.apply_changes(admin, ledger, plan)
    except (InvalidRequest, NotFound):
        request = await get_request(admin, request_id, to_change=True)
        request.status, request.decided_ms = RequestStatus.PENDING.value, None
        request.granted_tokens = request.operation_id = request.decided_by = request.decision_reason = None
        await admin.commit()
        raise
    return balance


async def decline(admin: Administrator, request_id: int, reason: str) -> QuotaRequest:
    """Decline a request. One that was declined stays as it is. Raises NotFound; LedgerConflict for a granted one."""
    request = await get_request(admin, request_id, to_change=True)
    if await _claim(admin, request, RequestStatus.DECLINED, reason):
        await _note(admin, request, RequestStatus.DECLINED)
    elif request.status != RequestStatus.DECLINED:
        raise LedgerConflict(ALREADY_DECIDED)
    return request


async def _claim(
    admin: Administrator,
    request: QuotaRequest,
    status: RequestStatus,
    reason: str | None,
    granted_tokens: int | None = None,
) -> bool:
    """Decide a request that is pending. Returns whether it was; in any case, the row is read anew.

    The condition is in the statement: on SQLite no row is locked before it is written.
    """
    is_pending = col(QuotaRequest.status) == RequestStatus.PENDING.value
    claiming = update(QuotaRequest).where(col(QuotaRequest.id) == request.id, is_pending)
    claimed = await admin.session.exec(
        claiming.values(
            status=status.value,
            granted_tokens=granted_tokens,
            decided_by=admin.name,
            decided_ms=admin.now_ms,
            decision_reason=reason,
        )
    )
    await admin.session.refresh(request)
    return claimed.rowcount == 1


async def _note(admin: Administrator, request: QuotaRequest, status: RequestStatus) -> None:
    await admin.session.flush()
    after: dict[str, Any] = {"request": request.id, "window": request.period, "asked": request.tokens}
    if request.operation_id is not None:
        after |= {"granted": request.granted_tokens, "operation": request.operation_id}
    action, target = f"quota_request.{status.value}", f"user:{request.user_id}"
    await admin.note(request.tenant_id, action, target, after=after, reason=request.decision_reason)
    await _put_event(admin.session, request, _EVENTS[status], admin.now_ms)


async def _put_event(session: AsyncSession, request: QuotaRequest, event_type: EventType, now_ms: int) -> None:
    """Notify the tenant's webhooks, in the transaction of the act. The reasons stay here: people have written them."""
    data = {
        "quota_request_id": request.id,
        "user_id": request.user_id,
        "window": request.period,
        "tokens": request.tokens,
        "granted_tokens": request.granted_tokens,
    }
    await put_event(session, request.tenant_id, event_type, data, now_ms, user_id=request.user_id)


def _plan_of(request: QuotaRequest, amount: int, until_ms: int | None) -> LimitPlan:
    """The plan of a request that was granted so much before. Raises LedgerConflict if it was decided otherwise."""
    if request.granted_tokens != amount or request.operation_id is None:
        raise LedgerConflict(ALREADY_DECIDED)
    reason = request.decision_reason or request.reason
    period = Period(request.period)
    owner = request.tenant_id, request.user_id
    planned = PlannedLimit(*owner, Unit.TOKENS, period, Action.GRANT, amount, reason, until_ms=until_ms)
    return LimitPlan(request.operation_id, (planned,))
