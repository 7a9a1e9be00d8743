"""What the caller has spent."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from tollkeeper.api.dependencies import AccountReader, ServicesDep, SessionDep
from tollkeeper.api.usage_formats import (
    CSV_RESPONSE,
    FormatName,
    FromTime,
    LineLimit,
    TagFilter,
    ToTime,
    UsageReportResponse,
    usage_csv,
    usage_response,
)
from tollkeeper.quota.rules.windows import Calendar
from tollkeeper.tenant_scope import TenantScope
from tollkeeper.usage.periods import report_period
from tollkeeper.usage.reports import GroupBy, OfCalls, read_labels, read_report

router = APIRouter(prefix="/me/usage", tags=["me"])

OwnGroupBy = Literal["hour", "day", "model", "provider", "key", "surface", "group", "tag"]


@router.get("", response_model=UsageReportResponse, responses=CSV_RESPONSE, summary="What I have spent")
async def read_my_usage(
    caller: AccountReader,
    session: SessionDep,
    services: ServicesDep,
    group_by: Annotated[OwnGroupBy, Query(examples=["day"])] = "day",
    from_: FromTime = None,
    to: ToTime = None,
    format_: FormatName = "json",
    limit: LineLimit = 1_000,
    tag: TagFilter = None,
) -> UsageReportResponse | StreamingResponse:
    """By default of the present month, by the calendar of your tenant."""
    principal, wanted = caller.principal, GroupBy(group_by)
    calendar = Calendar(caller.tenant.time_zone, caller.tenant.reset_day)
    by_hour = wanted is GroupBy.HOUR
    period = report_period(from_, to, services.clock.now_ms(), calendar, by_hour=by_hour)
    scope = TenantScope(principal.tenant_id)
    report = await read_report(session, scope, period, wanted, OfCalls(principal.user_id, tag))
    labels = await read_labels(session, scope, wanted, (line.value for line in report.lines))
    if format_ == "csv":
        return usage_csv(report, labels, "usage")
    return usage_response(report, period, wanted, labels, limit)
