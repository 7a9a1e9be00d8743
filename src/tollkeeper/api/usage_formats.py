"""Reports of usage as responses: JSON, and CSV that is sent line by line."""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import AwareDatetime, BaseModel, Field
from starlette.responses import StreamingResponse

from tollkeeper.api.formats import Moment, iso
from tollkeeper.usage.periods import ReportPeriod
from tollkeeper.usage.rendering import csv_rows, line_record, sums_record
from tollkeeper.usage.reports import GroupBy, Report

MAX_LINES = 10_000
LINES_PER_CHUNK = 200
CSV = "text/csv"

FromTime = Annotated[AwareDatetime | date | None, Query(alias="from", examples=["2026-11-01"])]
ToTime = Annotated[AwareDatetime | date | None, Query(examples=["2026-12-01"])]
FormatName = Annotated[Literal["json", "csv"], Query(alias="format", examples=["json"])]
TagFilter = Annotated[
    str | None,
    Query(
        max_length=105,
        pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,39}(=[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63})?$",
        description="Only calls with this tag, as name=value, or only its name",
        examples=["cost-centre=42"],
    ),
]
LineLimit = Annotated[int, Query(ge=1, le=MAX_LINES, examples=[100])]
CSV_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {CSV: {"schema": {"type": "string"}}}, "description": "The report, in the `format` asked for"}
}


class UsageSums(BaseModel):
    """Calls that have ended, and what they used. `cost` is in tokens times the model's weight, before what was
    `refunded`. `cached_calls` were answered at no cost, `failed_calls` were given back; neither are among the `calls`.
    """

    calls: int
    cached_calls: int
    failed_calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: int
    cost_usd: str
    refunded: int
    refunded_usd: str
    forgiven: int
    forgiven_usd: str


class UsageLine(UsageSums):
    """One line: `value` is the hour, the day, the model, the id of the user, …; null for calls that have none. `label`
    is the e-mail address of a user, or the name of a key, a group or a tenant.
    """

    value: str | None
    label: str | None


class UsageReportResponse(BaseModel):
    """What was spent from `from` on and before `to`, by the time of the reserves. Hours and days are those of the time
    zone. Times follow each other; other lines come by cost, the largest first. `complete` is false while calls that
    have ended in the last seconds are not in it yet. `truncated`: there are more lines than `limit`.
    """

    from_: Moment = Field(serialization_alias="from")
    to: Moment
    time_zone: str
    group_by: GroupBy
    complete: bool
    truncated: bool
    total: UsageSums
    data: list[UsageLine]


def usage_response(
    report: Report, period: ReportPeriod, group_by: GroupBy, labels: Mapping[str, str], limit: int
) -> UsageReportResponse:
    """A report as JSON, with at most `limit` lines."""
    return UsageReportResponse(
        from_=iso(period.from_ms),
        to=iso(period.to_ms),
        time_zone=period.time_zone,
        group_by=group_by,
        complete=report.is_complete,
        truncated=len(report.lines) > limit,
        total=UsageSums(**sums_record(report.total)),
        data=[UsageLine(**line_record(line, labels)) for line in report.lines[:limit]],
    )


def usage_csv(report: Report, labels: Mapping[str, str], name: str) -> StreamingResponse:
    """A report as a CSV file with all lines."""
    return csv_response(csv_rows(report, labels), name)


def csv_response(rows: Iterable[Sequence[str]], name: str) -> StreamingResponse:
    """Rows as a CSV file. `name` is that of the file, without an ending."""
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return StreamingResponse(_csv_chunks(rows), media_type=f"{CSV}; charset=utf-8", headers=headers)


async def _csv_chunks(rows: Iterable[Sequence[str]]) -> AsyncIterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    for number, row in enumerate(rows, 1):
        writer.writerow(row)
        if number % LINES_PER_CHUNK == 0:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()
