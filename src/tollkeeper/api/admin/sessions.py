"""Users' sessions and second factors: tenant admins manage those of their own tenant, operators all."""

from typing import Annotated

from fastapi import APIRouter, Path

from tollkeeper.administration import sessions
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID
from tollkeeper.api.auth_sessions import SessionId, SessionListResponse, session_response

router = APIRouter(prefix="/admin", tags=["admin"])

UserId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[17])]


@router.get("/users/{user_id}/sessions", summary="The sessions of a user")
async def list_user_sessions(user_id: UserId, caller: TenantAdmin) -> SessionListResponse:
    rows = await sessions.list_sessions(caller.admin, caller.services.sessions, user_id)
    return SessionListResponse(data=[session_response(row, caller.principal.session) for row in rows])


@router.delete("/users/{user_id}/sessions", status_code=204, summary="End all sessions of a user")
async def end_user_sessions(user_id: UserId, caller: TenantAdmin) -> None:
    """Their tokens are refused from the next request on. Calls in flight are settled. API keys stay valid."""
    await sessions.end_all_sessions(caller.admin, caller.services.sessions, user_id)


@router.delete("/sessions/{session_id}", status_code=204, summary="End a session")
async def end_user_session(session_id: SessionId, caller: TenantAdmin) -> None:
    """Its tokens are refused from the next request on. Calls in flight are settled."""
    await sessions.end_session(caller.admin, caller.services.sessions, session_id)


@router.delete("/users/{user_id}/totp", status_code=204, summary="Remove a user's second factor")
async def reset_second_factor(user_id: UserId, caller: TenantAdmin) -> None:
    """For a user who has lost it. This needs a fresh login of the administrator."""
    await sessions.reset_second_factor(caller.admin, caller.services.second_factors, user_id)
