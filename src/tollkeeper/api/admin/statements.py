"""Statements: what a tenant had, was granted and has spent in a month."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, Response

from tollkeeper.administration.statements import read_statement
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID
from tollkeeper.api.formats import Moment
from tollkeeper.api.usage_formats import CSV, UsageSums, csv_response
from tollkeeper.usage.statement_rendering import statement_page, statement_record, statement_rows

router = APIRouter(prefix="/admin/statements", tags=["admin"])

TenantId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[1])]
Month = Annotated[str, Path(max_length=20, examples=["2026-11"])]
FormatName = Annotated[Literal["json", "csv", "html"], Query(alias="format", examples=["json"])]
NOTHING_RUNS = {"Content-Security-Policy": "default-src 'none'"}
FORMATS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {CSV: {"schema": {"type": "string"}}, "text/html": {"schema": {"type": "string"}}},
        "description": "The statement, in the `format` asked for",
    }
}


class BalanceResponse(BaseModel):
    """A quota of the tenant in tokens or micro-USD, per month or without an end. `spent` is net of refunds.
    `opening` + `granted` - `spent` - `corrections` = `closing`.
    """

    quota: str
    unit: str
    opening: int
    granted: int
    spent: int
    corrections: int
    closing: int


class StatementLine(UsageSums):
    """What one group spent on one model of a provider; calls without a group have none."""

    group_id: int | None
    group_name: str | None
    model: str
    provider: str


class TagLine(UsageSums):
    """What the calls with one value of a tag spent; `tag_value` is null for all values without a line of their own:
    1,000 have one, those that cost most. A call with several tags is in the line of each.
    """

    tag: str
    tag_value: str | None


class CorrectionLine(StatementLine):
    """What adjustments and refunds have changed of a `month` that was closed before. Amounts can be negative."""

    month: str


class StatementResponse(BaseModel):
    """The statement of the month of the tenant's calendar that began in `month`. It is closed 48 hours after its end,
    or later, when all of its calls have ended, and never changes after that.
    """

    tenant_id: int
    tenant: str
    month: str
    from_: Moment = Field(alias="from")
    to: Moment
    time_zone: str
    closed_at: Moment | None
    balances: list[BalanceResponse]
    spent: list[StatementLine]
    total: UsageSums
    tags: list[TagLine]
    corrections: list[CorrectionLine]


@router.get(
    "/{tenant_id}/{month}", response_model=StatementResponse, responses=FORMATS, summary="The statement of a month"
)
async def get_statement(
    tenant_id: TenantId, month: Month, caller: TenantAdmin, format_: FormatName = "json"
) -> StatementResponse | Response:
    """As it was closed; until then, as it is now. As JSON, CSV, or a page to print."""
    record = statement_record(*await read_statement(caller.admin, tenant_id, month))
    if format_ == "csv":
        return csv_response(statement_rows(record), f"statement-{month}")
    if format_ == "html":
        return HTMLResponse(statement_page(record), headers=NOTHING_RUNS)
    return StatementResponse.model_validate(record)
