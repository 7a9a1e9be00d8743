"""Quotas: list balances, set limits, grant on top of them, remove them.

The ledger commits for itself. So a change is planned first: the plan's lines in the audit log name the ledger's
operation, and are committed before the ledger applies it. The ledger's entries of that operation tell whether it was
applied. A plan may be applied again, by any process: it acts once.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
from sqlmodel import col, select

from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.groups import get_group
from tollkeeper.administration.keys import get_key
from tollkeeper.administration.tags import prepare_quota
from tollkeeper.administration.tenants import get_tenant, wanted_tenant
from tollkeeper.administration.users import require_power_over
from tollkeeper.audit_log.log import Act
from tollkeeper.errors import Forbidden, InvalidRequest, LedgerError, NotFound, TollkeeperError
from tollkeeper.identity.models import User
from tollkeeper.quota import queries
from tollkeeper.quota.changes import Action, PlannedChange, QuotaChange, Target, plan_change
from tollkeeper.quota.ledger import Ledger, new_operation_id
from tollkeeper.quota.rules.limit_changes import Grant, LimitChange, Override, RemoveQuota, SetLimit, SpentRule
from tollkeeper.quota.rules.models import Unit, WhenSpent
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.subjects import OF_EACH, SubjectKind, owner_of, parse_template
from tollkeeper.quota.rules.windows import Period
from tollkeeper.tags import parse_tag

_LABELS = {
    SubjectKind.TENANT: "The tenant",
    SubjectKind.USER: "The user",
    SubjectKind.KEY: "The API key",
    SubjectKind.GROUP: "The group",
    SubjectKind.EACH_USER: "The template for each user",
    SubjectKind.EACH_KEY: "The template for each API key",
    SubjectKind.EACH_CONVERSATION: "The template for each conversation",
    SubjectKind.EACH_TAG: "The template for each value of the tag",
    SubjectKind.TAG: "The tag",
}
_AMOUNTS = {Action.SET: "limit", Action.GRANT: "granted", Action.OVERRIDE: "limit"}
"""What the audit log calls the amount of an act."""


class PlannedLimit(msgspec.Struct, frozen=True):
    """One change of a plan: the new limit, or what is granted."""

    tenant_id: int
    user_id: int | None
    unit: Unit
    period: Period
    action: Action
    amount: int
    reason: str
    when_spent: SpentRule | None = None
    kind: SubjectKind | None = None
    name: str = ""
    from_ms: int | None = None
    until_ms: int | None = None
    rollover_cap: int | None = None
    value: str = ""

    @property
    def subject(self) -> Subject:
        """The owner of the quota."""
        return Subject(self.tenant_id, self.user_id, self.kind, self.name, self.value)

    @property
    def change(self) -> LimitChange:
        """The change as the ledger's operation takes it."""
        key = QuotaKey(self.subject, self.unit, self.period)
        if self.action is Action.GRANT:
            return Grant(key, self.amount, self.reason, self.until_ms)
        if self.action is Action.OVERRIDE:
            assert self.until_ms is not None
            return Override(key, self.amount, self.until_ms, self.from_ms, self.reason)
        if self.action is Action.REMOVE:
            return RemoveQuota(key, self.reason)
        return SetLimit(key, self.amount, self.reason, self.when_spent, self.rollover_cap)


class LimitPlan(msgspec.Struct, frozen=True):
    """Changes that the audit log has, to be made in one operation of the ledger, all or none."""

    operation_id: str
    changes: tuple[PlannedLimit, ...]


class OwnerIds(NamedTuple):
    """Whose quota a request means: one of these; or a template of a tenant, as `parse_template` takes it."""

    user_id: int | None = None
    tenant_id: int | None = None
    key_id: str | None = None
    group_id: int | None = None
    tag: str | None = None
    for_each: str | None = None

    @property
    def are_several(self) -> bool:
        """Whether it names more than one. A tag and a template are of a tenant, which may be named, too."""
        ids = self if self.for_each is None and self.tag is None else self._replace(tenant_id=None)
        return sum(one is not None for one in ids) > 1


async def find_owner(admin: Administrator, ids: OwnerIds, *, default: int | None = None) -> Subject:
    """The owner that is meant; without any, the tenant `default`. With a tenant and another, that must be the tenant's.
    Raises NotFound for those that the administrator may not see; InvalidRequest for neither.
    """
    if ids._replace(tenant_id=None).are_several:
        raise InvalidRequest("Name one of user_id, key_id, group_id, tag and for_each.")
    scope = admin.scope.narrow(ids.tenant_id) if any(ids._replace(tenant_id=None)) else admin.scope
    if ids.for_each is not None:
        tenant_id = scope.tenant_id or default
        if tenant_id is None:
            raise InvalidRequest("Name the tenant_id whose template it is.")
        await get_tenant(admin, tenant_id)
        return parse_template(tenant_id, ids.for_each)
    if ids.tag is not None:
        owner = await wanted_tenant(admin, default if ids.tenant_id is None else ids.tenant_id)
        return Subject(owner, None, SubjectKind.TAG, parse_tag(ids.tag))
    if ids.group_id is not None:
        group = await get_group(admin, ids.group_id)
        scope.narrow(group.tenant_id)
        return Subject(group.tenant_id, None, SubjectKind.GROUP, str(group.id))
    if ids.key_id is not None:
        key = (await get_key(admin, ids.key_id)).row
        scope.narrow(key.tenant_id)
        return Subject(key.tenant_id, key.user_id, SubjectKind.KEY, key.id)
    if ids.user_id is not None:
        query = select(User.tenant_id).where(User.id == ids.user_id, scope.condition(col(User.tenant_id)))
        found = (await admin.session.exec(query)).first()
        if found is None:
            raise NotFound
        return Subject(found, ids.user_id)
    tenant_id = default if ids.tenant_id is None else ids.tenant_id
    if tenant_id is None:
        raise InvalidRequest("Name a user_id, a tenant_id, a key_id, a group_id, a tag or for_each.")
    await get_tenant(admin, tenant_id)
    return Subject(tenant_id)


async def find_target(admin: Administrator, ids: OwnerIds, *, for_removal: bool = False) -> Target:
    """The owner whose quota is to be changed. Raises what `find_owner` does; InvalidRequest for several; Forbidden for
    operators and their keys, whose quotas only operators may change.
    """
    if ids.are_several:
        raise InvalidRequest(
            "Name one of user_id, tenant_id, key_id and group_id; or a tag or for_each, with or without the tenant_id."
        )
    subject = await find_owner(admin, ids)
    if not for_removal:
        await prepare_quota(admin, subject)
    if subject.user_id is not None:
        require_power_over(admin, await admin.session.get_one(User, subject.user_id))
    return Target(subject, _LABELS[subject.kind])


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
    if not admin.is_operator and any(change.key.subject.kind is SubjectKind.TENANT for change in changes):
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
                change.request.when_spent,
                change.key.subject.part,
                change.key.subject.name,
                change.request.from_ms,
                change.request.until_ms,
                change.request.rollover_cap,
                change.key.subject.value,
            )
            for change in changes
        ),
    )
    acts = [_act(admin, plan, one, change) for one, change in zip(plan.changes, changes, strict=True)]
    await admin.note_all(acts)
    return plan


async def apply_changes(admin: Administrator, ledger: Ledger, plan: LimitPlan) -> tuple[Balance, ...]:
    """Apply a plan that is committed. Returns the balance of each quota after it that is not removed.

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


async def remove_quota(
    admin: Administrator, ledger: Ledger, ids: OwnerIds, unit: Unit, window: Period | None, reason: str
) -> None:
    """Remove a quota; without a window, the only one in this unit. Commits. Raises NotFound if there is none, and what
    `find_target`, `plan_changes` and `apply_changes` do.
    """
    target = await find_target(admin, ids, for_removal=True)
    plan = await plan_changes(admin, [QuotaChange(target, Action.REMOVE, 0, reason, window, unit)])
    await admin.commit()
    await apply_changes(admin, ledger, plan)


def _act(admin: Administrator, plan: LimitPlan, planned: PlannedLimit, change: PlannedChange) -> Act:
    is_set = planned.action in (Action.SET, Action.REMOVE)
    after = _record(plan, planned)
    if planned.action in _AMOUNTS:
        after |= {_AMOUNTS[planned.action]: planned.amount}
    for name, at_ms in (("from", planned.from_ms), ("until", planned.until_ms)):
        if at_ms is not None:
            after |= {name: datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()}
    if planned.rollover_cap is not None:
        after |= {"rollover": planned.rollover_cap}
    if planned.when_spent is not None:
        rule = planned.when_spent
        after |= {"when_spent": str(WhenSpent.of(**rule._asdict())), "fallback_model": rule.fallback_model}
    before = {"limit": change.base if change.before is not None else None} if is_set else None
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
    subject = owner_of(planned.subject)
    names = {SubjectKind.USER: subject.user_id} | dict.fromkeys((SubjectKind.TENANT, *OF_EACH), subject.tenant_id)
    return f"{subject.kind}:{subject.name or names.get(subject.kind)}"
