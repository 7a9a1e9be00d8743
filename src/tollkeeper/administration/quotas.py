"""Quotas: list balances, set limits, grant on top of them.

The ledger commits for itself. So a change is planned first: the plan's lines in the audit log name the ledger's
operation, and are committed before the ledger applies it. The ledger's entries of that operation tell whether it was
applied. A plan may be applied again, by any process: it acts once.
"""

from collections.abc import Sequence

import msgspec
from sqlmodel import col, select

from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.tenants import get_tenant
from tollkeeper.administration.users import require_power_over
from tollkeeper.audit_log.log import Act
from tollkeeper.errors import Forbidden, InvalidRequest, LedgerError, NotFound, TollkeeperError
from tollkeeper.identity.models import User
from tollkeeper.quota import queries
from tollkeeper.quota.changes import Action, PlannedChange, QuotaChange, Target, plan_change
from tollkeeper.quota.ledger import Ledger, new_operation_id
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance, Grant, LimitChange, SetLimit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period


class PlannedLimit(msgspec.Struct, frozen=True):
    """One change of a plan: the new limit, or what is granted."""

    tenant_id: int
    user_id: int | None
    unit: Unit
    period: Period
    action: Action
    amount: int
    reason: str

    @property
    def change(self) -> LimitChange:
        """The change as the ledger's operation takes it."""
        key = QuotaKey(Subject(self.tenant_id, self.user_id), self.unit, self.period)
        kind = SetLimit if self.action is Action.SET else Grant
        return kind(key, self.amount, self.reason)


class LimitPlan(msgspec.Struct, frozen=True):
    """Changes that the audit log has, to be made in one operation of the ledger, all or none."""

    operation_id: str
    changes: tuple[PlannedLimit, ...]


async def find_owner(
    admin: Administrator, *, user_id: int | None, tenant_id: int | None, default: int | None = None
) -> Subject:
    """The user or the tenant that is meant; with neither, the tenant `default`. With both, the user must be the
    tenant's. Raises NotFound for those that the administrator may not see; InvalidRequest for neither.
    """
    if user_id is not None:
        scope = admin.scope.narrow(tenant_id)
        query = select(User.tenant_id).where(User.id == user_id, scope.condition(col(User.tenant_id)))
        found = (await admin.session.exec(query)).first()
        if found is None:
            raise NotFound
        return Subject(found, user_id)
    tenant_id = default if tenant_id is None else tenant_id
    if tenant_id is None:
        raise InvalidRequest("Name a user_id or a tenant_id.")
    await get_tenant(admin, tenant_id)
    return Subject(tenant_id)


async def find_target(admin: Administrator, *, user_id: int | None, tenant_id: int | None) -> Target:
    """The user or the tenant whose quota is to be changed. Raises what `find_owner` does; InvalidRequest for both;
    Forbidden for operators, whose quotas only operators may change.
    """
    if user_id is not None and tenant_id is not None:
        raise InvalidRequest("Name a user_id or a tenant_id, not both.")
    subject = await find_owner(admin, user_id=user_id, tenant_id=tenant_id)
    if user_id is not None:
        require_power_over(admin, await admin.session.get_one(User, user_id))
    return Target(subject, "The user" if subject.user_id is not None else "The tenant")


async def list_quotas(
    admin: Administrator, tenant_id: int, *, after: int, limit: int
) -> tuple[list[tuple[Subject, list[Balance]]], int | None]:
    """The balances of at most `limit` users of a tenant, those with ids above `after`; with 0, those of the tenant come
    first. Returns also the `after` of the next page, if there is one. Raises NotFound.
    """
    admin.scope.narrow(tenant_id)
    query = select(User.id).where(User.tenant_id == tenant_id, col(User.id) > after).order_by(col(User.id))
    ids = (await admin.session.exec(query.limit(limit + 1))).all()
    subjects = [Subject(tenant_id)] if after == 0 else []
    subjects += [Subject(tenant_id, user_id) for user_id in ids[:limit]]
    balances = await queries.balances_by_subject(admin.session, tenant_id, subjects, admin.now_ms)
    return list(zip(subjects, balances, strict=True)), ids[limit - 1] if len(ids) > limit else None


async def balances_of(admin: Administrator, subject: Subject) -> list[Balance]:
    """The balances of a subject that the administrator may see."""
    return await queries.balances_of(admin.session, [subject], admin.now_ms)


async def plan_changes(admin: Administrator, requests: Sequence[QuotaChange]) -> LimitPlan:
    """Plan changes, and note them in the audit log. Raises Forbidden, InvalidRequest."""
    return await note_changes(admin, [await plan_change(admin.session, request, admin.now_ms) for request in requests])


async def note_changes(admin: Administrator, changes: Sequence[PlannedChange]) -> LimitPlan:
    """Note changes in the audit log. The transaction must be committed before the plan is applied. Raises Forbidden for
    a tenant's quota, unless the administrator is an operator.
    """
    if not admin.is_operator and any(change.key.subject.user_id is None for change in changes):
        raise Forbidden("Only operators may change the quota of a tenant. You may change those of its users.")
    plan = LimitPlan(
        new_operation_id(),
        tuple(
            PlannedLimit(
                change.key.subject.tenant_id,
                change.key.subject.user_id,
                change.key.unit,
                change.key.period,
                change.request.action,
                change.request.amount,
                change.request.reason,
            )
            for change in changes
        ),
    )
    acts = [_act(admin, plan, one, change.base) for one, change in zip(plan.changes, changes, strict=True)]
    await admin.note_all(acts)
    return plan


async def apply_changes(admin: Administrator, ledger: Ledger, plan: LimitPlan) -> tuple[Balance, ...]:
    """Apply a plan that is committed. Returns the balance of each quota after it.

    Raises InvalidRequest, NotFound, which are noted; LedgerUnavailable: then it may have been applied, or not.
    """
    changes = tuple(planned.change for planned in plan.changes)
    reason = plan.changes[0].reason
    try:
        return await ledger.administer(changes, actor=admin.name, reason=reason, operation_id=plan.operation_id)
    except LedgerError:
        raise
    except TollkeeperError as refusal:
        refused = [_refusal(admin, plan, one, refusal) for one in plan.changes]
        await admin.note_all(refused)
        await admin.commit()
        raise


def _act(admin: Administrator, plan: LimitPlan, planned: PlannedLimit, base: int | None) -> Act:
    is_set = planned.action is Action.SET
    after = _record(plan, planned) | {"limit" if is_set else "granted": planned.amount}
    before = {"limit": base} if is_set else None
    tenant_id, reason = planned.tenant_id, planned.reason
    return admin.act(tenant_id, _action(planned), _target(planned), before=before, after=after, reason=reason)


def _refusal(admin: Administrator, plan: LimitPlan, planned: PlannedLimit, refusal: TollkeeperError) -> Act:
    after = _record(plan, planned) | {"error": refusal.code}
    return admin.act(planned.tenant_id, f"{_action(planned)}.refused", _target(planned), after=after)


def _record(plan: LimitPlan, planned: PlannedLimit) -> dict[str, object]:
    return {"operation": plan.operation_id, "unit": str(planned.unit), "window": str(planned.period)}


def _action(planned: PlannedLimit) -> str:
    return f"quota.{planned.action}"


def _target(planned: PlannedLimit) -> str:
    return f"user:{planned.user_id}" if planned.user_id is not None else f"tenant:{planned.tenant_id}"
