"""Plans: operators create, change and delete them, and put tenants on them."""

from typing import Any

import msgspec
from limits import parse_many
from sqlmodel import func, select

from tollkeeper.administration import quotas, tenants
from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.quotas import LimitPlan
from tollkeeper.audit_log.models import INSTALLATION
from tollkeeper.configuration import plans
from tollkeeper.configuration.models import Plan
from tollkeeper.configuration.plans import PlanQuota, PlanTerms, read_terms, write_terms
from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.identity.models import Tenant
from tollkeeper.key_limits import make_limits
from tollkeeper.quota.changes import Action, QuotaChange, Target
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.limit_changes import require_possible
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.page import QuotaKey, Subject
from tollkeeper.quota.rules.windows import Period

MAX_PLANS = 1_000
MAX_NAME_LENGTH = 100
MAX_RATES = 4
MAX_RATE_AMOUNT, MAX_RATE_WINDOW_S = 10**9, 366 * 86_400
_RATES = ("calls_per_user", "calls_per_tenant", "requests_per_user", "requests_per_tenant")


class Assignment(msgspec.Struct, frozen=True):
    """A tenant that is put on a plan, and the quotas that it gets with it, if there are any."""

    tenant_id: int
    limits: LimitPlan | None


async def list_plans(admin: Administrator, *, after: int, limit: int) -> list[Plan]:
    """At most so many plans with greater ids. Raises Forbidden for anyone but operators."""
    admin.require_operator()
    return await plans.list_plans(admin.session, after=after, limit=limit)


async def get_plan(admin: Administrator, plan_id: int, *, to_change: bool = False) -> Plan:
    """Raises NotFound; Forbidden for anyone but operators."""
    admin.require_operator()
    found = await plans.find_plan(admin.session, plan_id, to_change=to_change)
    if found is None:
        raise NotFound
    return found


async def create_plan(admin: Administrator, name: str, terms: PlanTerms) -> Plan:
    """Raises InvalidRequest; Forbidden for anyone but operators."""
    admin.require_operator()
    if await plans.count_plans(admin.session) >= MAX_PLANS:
        raise InvalidRequest(f"There are at most {MAX_PLANS} plans. Delete one first.")
    document = write_terms(checked_terms(terms))
    plan = Plan(name=await _free_name(admin, name, None), document=document, created_ms=admin.now_ms)
    admin.session.add(plan)
    await admin.session.flush()
    await admin.note(INSTALLATION, "plan.create", target_of(plan), after=_record(plan))
    return plan


async def change_plan(admin: Administrator, plan: Plan, *, name: str | None, terms: PlanTerms) -> Plan:
    """Its rates, models and retention apply to its tenants within about a second. Quotas that exist stay as they are.

    Raises InvalidRequest.
    """
    before = _record(plan)
    if name is not None:
        plan.name = await _free_name(admin, name, plan.id)
    plan.document = write_terms(checked_terms(terms))
    await admin.session.flush()
    if (after := _record(plan)) != before:
        await admin.note(INSTALLATION, "plan.change", target_of(plan), before=before, after=after)
    return plan


async def delete_plan(admin: Administrator, plan: Plan) -> None:
    """Raises InvalidRequest while a tenant is on it."""
    on_it = select(func.count()).select_from(Tenant).where(Tenant.plan_id == plan.id)
    if count := (await admin.session.exec(on_it)).one():
        raise InvalidRequest(f"{count} tenants are on this plan. Put them on another one first.")
    await admin.note(INSTALLATION, "plan.delete", target_of(plan), before=_record(plan))
    await admin.session.delete(plan)
    await admin.session.flush()


async def assign_plan(admin: Administrator, tenant_id: int, plan_id: int | None, reason: str) -> Assignment:
    """Put a tenant on a plan; None: on none. It takes effect within about a second, its quotas with `apply_assignment`,
    after a commit. Quotas that the plan does not name stay.

    Raises NotFound; InvalidRequest; Forbidden for anyone but operators.
    """
    admin.require_operator()
    tenant = await tenants.get_tenant(admin, tenant_id, to_change=True)
    plan = await get_plan(admin, plan_id, to_change=True) if plan_id is not None else None  # so that it is not deleted
    before, tenant.plan_id = tenant.plan_id, plan_id
    await admin.session.flush()
    target, after = tenants.target_of(tenant), {"plan_id": plan_id}
    await admin.note(tenant_id, "tenant.plan", target, before={"plan_id": before}, after=after, reason=reason)
    if plan is None or not (given := read_terms(plan.document).tenant_quotas):
        return Assignment(tenant_id, None)
    owner = Target(Subject(tenant_id), tenant.name)
    changes = [QuotaChange(owner, Action.SET, one.limit, reason, Period(one.window), Unit(one.unit)) for one in given]
    return Assignment(tenant_id, await quotas.plan_changes(admin, changes))


async def apply_assignment(admin: Administrator, ledger: Ledger, assignment: Assignment) -> None:
    """Set the tenant's quotas, once, however often it is called. Raises LedgerUnavailable, InvalidRequest."""
    if assignment.limits is not None:
        await quotas.apply_changes(admin, ledger, assignment.limits)


def checked_terms(terms: PlanTerms) -> PlanTerms:
    """The terms in their stored form. Raises InvalidRequest, which names the field."""
    for field in _RATES:
        if (notation := getattr(terms, field)) is not None:
            _check_rate(field, notation)
    for field in ("tenant_quotas", "user_quotas"):
        given: tuple[PlanQuota, ...] = getattr(terms, field)
        for one in given:
            require_possible(QuotaKey(Subject(0), Unit(one.unit), Period(one.window)))
        if len({(one.unit, one.window) for one in given}) < len(given):
            raise InvalidRequest(f"{field}: there is one quota for each unit and window.", parameter=field)
    return msgspec.structs.replace(terms, models=make_limits(models=terms.models).models)


def _check_rate(field: str, notation: str) -> None:
    try:
        items = parse_many(notation) if notation != "off" else []
    except ValueError:
        items = None
    if items is None or len(items) > MAX_RATES:
        raise InvalidRequest(f'{field} is like "600/minute" or "10/second;1000/hour", or "off".', parameter=field)
    for item in items:
        if not (0 < item.amount <= MAX_RATE_AMOUNT and 0 < item.get_expiry() <= MAX_RATE_WINDOW_S):
            raise InvalidRequest(f"{field}: 1 to {MAX_RATE_AMOUNT:,} requests in at most a year.", parameter=field)


async def _free_name(admin: Administrator, name: str, plan_id: int | None) -> str:
    name = name.strip()
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"A name has 1 to {MAX_NAME_LENGTH} printable characters.", parameter="name")
    other = await plans.find_plan_by_name(admin.session, name)
    if other is not None and other.id != plan_id:
        raise InvalidRequest("There is a plan of this name already. Choose another name.", parameter="name")
    return name


def target_of(plan: Plan) -> str:
    """How the audit log names a plan."""
    return f"plan:{plan.id}"


def _record(plan: Plan) -> dict[str, Any]:
    terms: dict[str, Any] = msgspec.to_builtins(read_terms(plan.document))
    return {"name": plan.name} | terms
