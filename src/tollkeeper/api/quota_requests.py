"""Asking for more quota: the caller's own requests, and what was decided about them."""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.administration import quota_requests
from tollkeeper.administration.models import QuotaRequest
from tollkeeper.api import strict_json
from tollkeeper.api.admin.pages import IdCursor, Limit, Page
from tollkeeper.api.admin.reasons import Reason
from tollkeeper.api.dependencies import AccountReader, ServicesDep, SessionDep
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.middleware import read_body
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.quota.rules.windows import MAX_GRANTED, Period

router = APIRouter(prefix="/me/quota/requests", tags=["me"])

MAX_BODY_BYTES = 8_192
WindowName = Literal["minute", "hour", "day", "week", "month", "total"]
EXAMPLE = {"tokens": 50_000, "reason": "The report is due today"}
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"description": "The same was asked for at the same time"}}


class AskForQuotaRequest(msgspec.Struct, forbid_unknown_fields=True):
    """How many tokens more the caller asks for, in the current window of one of their token quotas. `window` can be
    absent if there is one. A new request replaces the one for this window that is still pending.
    """

    tokens: Annotated[int, Meta(ge=1, le=MAX_GRANTED)]
    reason: Reason
    window: WindowName | None = None


class QuotaRequestResponse(BaseModel):
    """A request for more tokens. `granted_tokens` is what was granted of it, to the window of the time of the grant."""

    id: int
    created_at: Moment
    window: str
    tokens: int
    reason: str
    status: Literal["pending", "granted", "declined"]
    granted_tokens: int | None
    decided_at: Moment | None
    decision_reason: str | None


@router.post(
    "",
    status_code=201,
    openapi_extra=json_body(AskForQuotaRequest, EXAMPLE),
    responses=CONFLICT,
    summary="Ask for more quota",
)
async def ask_for_quota(
    request: Request, caller: AccountReader, session: SessionDep, services: ServicesDep
) -> QuotaRequestResponse:
    """An administrator of the tenant grants it, also in part, or declines it."""
    await session.commit()  # no transaction is open while the client sends the body
    sent = strict_json.decode(AskForQuotaRequest, await read_body(request.scope, request.receive, MAX_BODY_BYTES))
    session.expire_all()  # the account is read anew after it
    await services.authenticator.load_account(session, caller.principal)
    window = Period(sent.window) if sent.window is not None else None
    now_ms = services.clock.now_ms()
    made = await quota_requests.ask(session, caller.principal, sent.tokens, window, sent.reason, now_ms)
    return quota_request_response(made)


@router.get("", summary="My requests for more quota, the newest first")
async def list_my_quota_requests(
    caller: AccountReader, session: SessionDep, limit: Limit = 20, cursor: IdCursor = None
) -> Page[QuotaRequestResponse]:
    found = await quota_requests.list_own(session, caller.principal, before=cursor, limit=limit + 1)
    page = [quota_request_response(row) for row in found[:limit]]
    return Page(data=page, next_cursor=str(page[-1].id) if len(found) > limit else None)


def quota_request_response(request: QuotaRequest) -> QuotaRequestResponse:
    """A request for more quota, as a response."""
    return QuotaRequestResponse(**quota_request_fields(request))


def quota_request_fields(request: QuotaRequest) -> dict[str, Any]:
    """The fields of a QuotaRequestResponse."""
    return {
        "id": request.id,
        "created_at": iso(request.created_ms),
        "window": request.period,
        "tokens": request.tokens,
        "reason": request.reason,
        "status": request.status,
        "granted_tokens": request.granted_tokens,
        "decided_at": iso(request.decided_ms),
        "decision_reason": request.decision_reason,
    }
