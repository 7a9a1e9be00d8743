"""The audit log: tenant admins read their own tenant's, operators all."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from pydantic import BaseModel

from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, Limit, Page
from tollkeeper.api.formats import iso
from tollkeeper.audit_log.models import INSTALLATION, AuditLine

router = APIRouter(prefix="/admin/audit", tags=["admin"])

Cursor = Annotated[
    str | None, Query(max_length=60, pattern=r"^\d{1,15}-\d{1,10}-\d{1,15}$", examples=["1812000000000-1-17"])
]
OfTenant = Annotated[int | None, Query(ge=INSTALLATION, le=MAX_ID, examples=[1])]


class AuditResponse(BaseModel):
    """One act. `tenant_id` is null for an act that concerns no single tenant; `before` and `after` are what changed."""

    tenant_id: int | None
    sequence: int
    at: str | None
    actor: str
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str | None
    address: str
    correlation_id: str


@router.get("", summary="The audit log, the newest acts first")
async def read_audit_log(
    caller: TenantAdmin, tenant_id: OfTenant = None, limit: Limit = 20, cursor: Cursor = None
) -> Page[AuditResponse]:
    before = tuple(map(int, cursor.split("-"))) if cursor is not None else None
    scope = caller.admin.scope.narrow(tenant_id)
    rows = await caller.services.audit_log.page(caller.admin.session, scope, before=before, limit=limit + 1)  # type: ignore[arg-type]
    page = rows[:limit]
    return Page(data=list(map(_audit_response, page)), next_cursor=_cursor(page[-1]) if len(rows) > limit else None)


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
