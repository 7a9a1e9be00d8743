"""What a tenant, one of its users, or the whole installation has spent."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from tollkeeper.administration.usage import Question, read_usage
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, NO_OWNER
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
from tollkeeper.usage.reports import GroupBy

router = APIRouter(prefix="/admin/usage", tags=["admin"])

OfTenant = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])]
OfUser = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[17])]


@router.get("", response_model=UsageReportResponse, responses=CSV_RESPONSE | NO_OWNER, summary="What was spent")
async def read_all_usage(
    caller: TenantAdmin,
    group_by: Annotated[GroupBy, Query(examples=["model"])] = GroupBy.DAY,
    tenant_id: OfTenant = None,
    user_id: OfUser = None,
    from_: FromTime = None,
    to: ToTime = None,
    format_: FormatName = "json",
    limit: LineLimit = 1_000,
    tag: TagFilter = None,
) -> UsageReportResponse | StreamingResponse:
    """Of your tenant, or of one of its users; for operators, of all tenants, or of one. By default of the present
    month, by the calendar of the tenant; of all tenants, by that of UTC.
    """
    question = Question(group_by, tenant_id, user_id, from_, to, tag)
    report, period, labels = await read_usage(caller.admin, question)
    if format_ == "csv":
        return usage_csv(report, labels, "usage")
    return usage_response(report, period, group_by, labels, limit)
