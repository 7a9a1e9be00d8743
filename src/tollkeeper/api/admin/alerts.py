"""Alerts on quotas: rules that say when they fire, and those that have fired."""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Response
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.administration import alerts
from tollkeeper.administration.alerts import MAX_PERCENT, MAX_PERCENTS
from tollkeeper.alerts.models import AlertRule, QuotaAlert
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, NO_TENANT, Limit, Page
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.openapi_parts import json_body

router = APIRouter(prefix="/admin/alerts", tags=["admin"])

WindowName = Literal["minute", "hour", "day", "week", "month", "total"]
UnitName = Literal["tokens", "micro_usd", "requests"]
KindName = Literal["tenant", "user", "key", "group", "conversation"]
Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
TenantId = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])]
EXAMPLE_ID = "rule_01"
RuleId = Annotated[str, Path(max_length=40, examples=[EXAMPLE_ID])]
RuleCursor = Annotated[str | None, Query(max_length=40, pattern="^rule_[0-9a-f]+$", examples=[EXAMPLE_ID])]
AlertCursor = Annotated[str | None, Query(max_length=40, pattern="^alert_[0-9a-f]+$", examples=["alert_01"])]
EXAMPLE: dict[str, Any] = {"percents": [80, 95, 100], "kind": "tenant"}


class CreateAlertRuleRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An alert fires when a window has used one of these shares of its limit, in percent. It is for the quotas of this
    `kind`, user, unit and window, or for all of them without these fields. `tenant_id`: by default, your own tenant.
    """

    percents: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=MAX_PERCENT)], ...], Meta(min_length=1, max_length=MAX_PERCENTS)
    ]
    kind: KindName | None = None
    user_id: Id | None = None
    unit: UnitName | None = None
    window: WindowName | None = None
    tenant_id: Id | None = None


class AlertRuleResponse(BaseModel):
    """A rule. Fields that are null do not restrict it."""

    id: str
    tenant_id: int
    percents: list[int]
    kind: str | None
    user_id: int | None
    unit: str | None
    window: str | None
    created_at: Moment


class AlertResponse(BaseModel):
    """An alert that has fired: `used` of `limit` at that time, in the unit of the quota."""

    id: str
    tenant_id: int
    percent: int
    quota_id: int
    kind: str
    user_id: int | None
    unit: str
    window: str
    limit: int
    used: int
    window_starts_at: Moment
    window_ends_at: Moment | None
    created_at: Moment


@router.get("", responses=NO_TENANT, summary="Alerts that have fired")
async def list_alerts(
    caller: TenantAdmin, tenant_id: TenantId = None, limit: Limit = 20, cursor: AlertCursor = None
) -> Page[AlertResponse]:
    """The newest first. Each fires once for a window and a share."""
    found = await alerts.list_alerts(caller.admin, tenant_id, before=cursor, limit=limit + 1)
    page = [_alert_response(alert) for alert in found[:limit]]
    return Page(data=page, next_cursor=page[-1].id if len(found) > limit else None)


@router.post(
    "/rules",
    status_code=201,
    response_model=AlertRuleResponse,
    responses=NO_TENANT,
    openapi_extra=json_body(CreateAlertRuleRequest, EXAMPLE),
    summary="Create a rule for alerts",
)
async def create_alert_rule(caller: TenantAdmin) -> Response:
    """Shares that are reached already fire within 15 seconds, as others do."""

    async def create(sent: CreateAlertRuleRequest) -> AlertRuleResponse:
        rule = await alerts.create_rule(
            caller.admin,
            sent.tenant_id,
            sent.percents,
            kind=sent.kind,
            user_id=sent.user_id,
            unit=sent.unit,
            period=sent.window,
        )
        return _rule_response(rule)

    return await caller.once(CreateAlertRuleRequest, create)


@router.get("/rules", responses=NO_TENANT, summary="List the rules for alerts")
async def list_alert_rules(
    caller: TenantAdmin, tenant_id: TenantId = None, limit: Limit = 20, cursor: RuleCursor = None
) -> Page[AlertRuleResponse]:
    found = await alerts.list_rules(caller.admin, tenant_id, after=cursor, limit=limit + 1)
    page = [_rule_response(rule) for rule in found[:limit]]
    return Page(data=page, next_cursor=page[-1].id if len(found) > limit else None)


@router.delete("/rules/{rule_id}", status_code=204, summary="Delete a rule for alerts")
async def delete_alert_rule(rule_id: RuleId, caller: TenantAdmin) -> None:
    """Alerts that have fired stay."""
    await alerts.delete_rule(caller.admin, rule_id)


def _rule_response(rule: AlertRule) -> AlertRuleResponse:
    return AlertRuleResponse(
        id=rule.id,
        tenant_id=rule.tenant_id,
        percents=alerts.percents_of(rule),
        kind=rule.kind,
        user_id=rule.user_id,
        unit=rule.unit,
        window=rule.period,
        created_at=iso(rule.created_ms),
    )


def _alert_response(alert: QuotaAlert) -> AlertResponse:
    return AlertResponse(
        id=alert.id,
        tenant_id=alert.tenant_id,
        percent=alert.percent,
        quota_id=alert.quota_id,
        kind=alert.kind,
        user_id=alert.user_id,
        unit=alert.unit,
        window=alert.period,
        limit=alert.granted,
        used=alert.settled,
        window_starts_at=iso(alert.starts_ms),
        window_ends_at=iso(alert.ends_ms),
        created_at=iso(alert.created_ms),
    )
