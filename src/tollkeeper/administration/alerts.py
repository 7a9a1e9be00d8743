"""Alerts on quotas: rules that say when they fire, and those that have fired."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete
from sqlmodel import col, select

from tollkeeper.administration import tenants
from tollkeeper.administration.administrator import Administrator
from tollkeeper.alerts.models import AlertRule, QuotaAlert
from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.identity.models import User
from tollkeeper.quota.time_sorted_ids import new_id

PREFIX = "rule"
MAX_RULES = 50
"""Of one tenant."""
MAX_PERCENTS = 10
MAX_SHARES = 20
"""Different shares in the rules of one tenant: so many alerts, and events of webhooks, one window can cause."""
MAX_PERCENT = 1_000


async def create_rule(
    admin: Administrator,
    tenant_id: int | None,
    percents: Sequence[int],
    *,
    kind: str | None = None,
    user_id: int | None = None,
    unit: str | None = None,
    period: str | None = None,
) -> AlertRule:
    """A rule of a tenant (by default the administrator's own): its alerts fire at these shares, in percent, of the
    quotas of this kind, user, unit and window; of all of them, without these. Raises NotFound, InvalidRequest.
    """
    owner = admin.tenant_id if tenant_id is None else tenant_id
    if owner is None:
        raise InvalidRequest("Name the tenant.")
    await tenants.get_tenant(admin, owner, to_change=True)
    if user_id is not None:
        are_theirs = select(User.id).where(User.id == user_id, User.tenant_id == owner)
        if (await admin.session.exec(are_theirs)).first() is None:
            raise NotFound("The tenant has no such user.")
    await _require_room(admin, owner, percents)
    rule = AlertRule(
        tenant_id=owner,
        id=new_id(PREFIX),
        percents=json.dumps(_checked(percents)),
        kind=kind,
        user_id=user_id,
        unit=unit,
        period=period,
        created_ms=admin.now_ms,
    )
    admin.session.add(rule)
    await admin.session.flush()
    await admin.note(owner, "alert_rule.create", target_of(rule), after=_record(rule))
    return rule


async def list_rules(
    admin: Administrator, tenant_id: int | None, *, after: str | None = None, limit: int = MAX_RULES
) -> list[AlertRule]:
    """The rules of a tenant; without one, those that the administrator may see. Raises NotFound."""
    if tenant_id is not None:
        await tenants.get_tenant(admin, tenant_id)
    query = select(AlertRule).where(admin.scope.narrow(tenant_id).condition(col(AlertRule.tenant_id)))
    if after is not None:
        query = query.where(col(AlertRule.id) > after)
    return list((await admin.session.exec(query.order_by(col(AlertRule.id)).limit(limit))).all())


async def delete_rule(admin: Administrator, rule_id: str) -> None:
    """What has fired stays. Raises NotFound, also for another tenant's."""
    is_it = col(AlertRule.id) == rule_id, admin.scope.condition(col(AlertRule.tenant_id))
    rule = (await admin.session.exec(select(AlertRule).where(*is_it))).first()
    if rule is None:
        raise NotFound
    await admin.session.exec(delete(AlertRule).where(*is_it))
    await admin.note(rule.tenant_id, "alert_rule.delete", target_of(rule), before=_record(rule))


async def list_alerts(
    admin: Administrator, tenant_id: int | None, *, before: str | None = None, limit: int
) -> list[QuotaAlert]:
    """The alerts of a tenant, the newest first; without one, those that the administrator may see. Raises NotFound."""
    if tenant_id is not None:
        await tenants.get_tenant(admin, tenant_id)
    query = select(QuotaAlert).where(admin.scope.narrow(tenant_id).condition(col(QuotaAlert.tenant_id)))
    if before is not None:
        query = query.where(col(QuotaAlert.id) < before)
    return list((await admin.session.exec(query.order_by(col(QuotaAlert.id).desc()).limit(limit))).all())


def percents_of(rule: AlertRule) -> list[int]:
    """The shares of a rule, in percent."""
    found: list[int] = json.loads(rule.percents)
    return found


def target_of(rule: AlertRule) -> str:
    """How the audit log names a rule."""
    return f"alert_rule:{rule.id}"


async def _require_room(admin: Administrator, tenant_id: int, percents: Sequence[int]) -> None:
    stored = select(AlertRule.percents).where(AlertRule.tenant_id == tenant_id)
    rules = [json.loads(one) for one in (await admin.session.exec(stored)).all()]
    if len(rules) >= MAX_RULES:
        raise InvalidRequest(f"A tenant has at most {MAX_RULES} rules. Delete one first.")
    if len(set(percents).union(*rules)) > MAX_SHARES:
        raise InvalidRequest(
            f"The rules of a tenant have at most {MAX_SHARES} different shares. Use one of theirs, or delete a rule.",
            parameter="percents",
        )


def _checked(percents: Sequence[int]) -> list[int]:
    if not 0 < len(percents) <= MAX_PERCENTS or not all(0 < one <= MAX_PERCENT for one in percents):
        raise InvalidRequest(
            f"percents has 1 to {MAX_PERCENTS} shares of the limit, each from 1 to {MAX_PERCENT}.", parameter="percents"
        )
    return sorted(set(percents))


def _record(rule: AlertRule) -> dict[str, Any]:
    return {
        "percents": percents_of(rule),
        "kind": rule.kind,
        "user_id": rule.user_id,
        "unit": rule.unit,
        "window": rule.period,
    }
