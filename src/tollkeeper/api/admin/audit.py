"""The audit log: tenant admins read their own tenant's, operators all."""

import math
from datetime import UTC, date, datetime, time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel

from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, NO_TENANT, Limit, Page
from tollkeeper.api.formats import Moment, iso
from tollkeeper.audit_log.log import Filter
from tollkeeper.audit_log.models import INSTALLATION, AuditLine

router = APIRouter(prefix="/admin/audit", tags=["admin"])

_NAME = r"^[^\x00-\x1f\x7f-\x9f]+$"

Cursor = Annotated[
    str | None, Query(max_length=60, pattern=r"^\d{1,15}-\d{1,10}-\d{1,15}$", examples=["1812000000000-1-17"])
]
OfTenant = Annotated[int | None, Query(ge=INSTALLATION, le=MAX_ID, examples=[1])]
Action = Annotated[str | None, Query(max_length=40, pattern=_NAME, examples=["quota.set"])]
Actor = Annotated[str | None, Query(max_length=100, pattern=_NAME, examples=["user:17"])]
Target = Annotated[str | None, Query(max_length=250, pattern=_NAME, examples=["user:17"])]
FromTime = Annotated[AwareDatetime | date | None, Query(alias="from", examples=["2026-11-01T00:00:00Z"])]
ToTime = Annotated[AwareDatetime | date | None, Query(examples=["2026-12-01T00:00:00Z"])]


class AuditResponse(BaseModel):
    """One act. `tenant_id` is null for an act that concerns no single tenant; `before` and `after` are what changed."""

    tenant_id: int | None
    sequence: int
    at: Moment
    actor: str
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str | None
    address: str
    correlation_id: str


@router.get("", responses=NO_TENANT, summary="The audit log, the newest acts first")
async def read_audit_log(
    caller: TenantAdmin,
    tenant_id: OfTenant = None,
    action: Action = None,
    actor: Actor = None,
    target: Target = None,
    from_: FromTime = None,
    to: ToTime = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[AuditResponse]:
    """Acts from `from` on and before `to`, with this action, actor and target."""
    before = _parse_cursor(cursor) if cursor is not None else None
    scope = caller.admin.scope.narrow(tenant_id)
    matching = Filter(action, actor, target, _milliseconds(from_), _milliseconds(to))
    log, session = caller.services.audit_log, caller.admin.session
    rows = await log.page(session, scope, matching=matching, before=before, limit=limit + 1)
    page = rows[:limit]
    return Page(data=list(map(_audit_response, page)), next_cursor=_cursor(page[-1]) if len(rows) > limit else None)


def _milliseconds(moment: datetime | date | None) -> int | None:
    """The time in milliseconds, rounded up. A date means its begin, in UTC."""
    if moment is None:
        return None
    begin = moment if isinstance(moment, datetime) else datetime.combine(moment, time.min, UTC)
    return math.ceil(begin.timestamp() * 1000)


def _parse_cursor(cursor: str) -> tuple[int, int, int]:
    at_ms, tenant_id, sequence = map(int, cursor.split("-"))
    return at_ms, tenant_id, sequence


def _cursor(line: AuditLine) -> str:
    return f"{line.at_ms}-{line.tenant_id}-{line.sequence}"


def _audit_response(line: AuditLine) -> AuditResponse:
    return AuditResponse(
        tenant_id=line.tenant_id if line.tenant_id != INSTALLATION else None,
        sequence=line.sequence,
        at=iso(line.at_ms),
        actor=line.actor,
        action=line.action,
        target=line.target,
        before=orjson.loads(line.before) if line.before is not None else None,
        after=orjson.loads(line.after) if line.after is not None else None,
        reason=line.reason,
        address=line.address,
        correlation_id=line.correlation_id,
    )
