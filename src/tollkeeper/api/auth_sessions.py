"""The caller's sessions: refresh, log out, list, revoke; and the change of the password, which ends all others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Path, Request, Response
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.api import strict_json
from tollkeeper.api.auth_tokens import (
    CONSOLE_HEADER,
    TokenResponse,
    client_of,
    cookie_of,
    delete_cookie,
    token_response,
)
from tollkeeper.api.bearer import authenticate, client_address
from tollkeeper.api.dependencies import KeyOwner, Services, ServicesDep, SessionDep
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.forms import FORM, fields_of
from tollkeeper.api.middleware import read_body
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.errors import Forbidden, InvalidCredentials, InvalidRequest, Unauthenticated
from tollkeeper.identity.models import Session
from tollkeeper.identity.refresh_tokens import MAX_LENGTH
from tollkeeper.principal import Access
from tollkeeper.tenant_scope import TenantScope

router = APIRouter(prefix="/auth", tags=["auth"])

MAX_BODY_BYTES = 16 * 1024
MAX_PASSWORD_LENGTH = 4096

Sent = TypeVar("Sent")
RefreshTokenText = Annotated[str, Meta(max_length=MAX_LENGTH)]
SessionId = Annotated[str, Path(examples=["ses_0123456789abcdef01234567"])]


class RefreshRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The newest refresh token of a session. Without it, the one in the cookie is meant."""

    refresh_token: RefreshTokenText | None = None


class LogoutRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`all`: every session of the user. The session is that of the refresh token, or else of the access token."""

    all: bool = False
    refresh_token: RefreshTokenText | None = None


class ChangePasswordRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A new password has at least 12 characters. With `cookie`, the new refresh token is put into a cookie."""

    current_password: Annotated[str, Meta(min_length=1, max_length=MAX_PASSWORD_LENGTH)]
    new_password: Annotated[str, Meta(min_length=1, max_length=MAX_PASSWORD_LENGTH)]
    cookie: bool = False


class LoginSessionResponse(BaseModel):
    """A login that has not ended. `address` and `user_agent` are those of its last login or refresh."""

    id: str
    method: str
    created_at: Moment
    last_used_at: Moment
    expires_at: Moment
    address: str
    user_agent: str
    current: bool


class SessionListResponse(BaseModel):
    """The sessions that have not ended, the newest first."""

    data: list[LoginSessionResponse]


EXAMPLE_TOKEN = f"tk-refresh-0123456789abcdef01234567-0-{'x' * 43}-{'x' * 22}"
REFRESH_FORM = {
    "title": "RefreshForm",
    "description": "The OAuth2 form (RFC 6749, 6). Its other fields have no effect.",
    "type": "object",
    "properties": {
        "grant_type": {"enum": ["refresh_token"]},
        "refresh_token": {"type": "string", "maxLength": MAX_LENGTH},
    },
    "required": ["grant_type", "refresh_token"],
}
REFRESH_BODY = json_body(RefreshRequest, {"refresh_token": EXAMPLE_TOKEN}, required=False)
REFRESH_BODY["requestBody"]["content"][FORM] = {
    "schema": REFRESH_FORM,
    "example": {"grant_type": "refresh_token", "refresh_token": EXAMPLE_TOKEN},
}
ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The token is missing, invalid, outdated or revoked"},
    403: {"description": "The refresh cookie came without the console's header, or the token is of no session"},
}
PASSWORD_ERRORS: dict[int | str, dict[str, Any]] = {401: {"description": "The current password is wrong"}}


@router.post(
    "/refresh",
    response_model_exclude_none=True,
    openapi_extra=REFRESH_BODY,
    responses=ERRORS,
    summary="Exchange a refresh token for new tokens",
)
async def refresh_login(request: Request, response: Response, services: ServicesDep) -> TokenResponse:
    """Send the token as JSON, or as the OAuth2 form (RFC 6749, 6). Each refresh token works once. If one is used again
    later than ten seconds after its first use, the session ends. The time of the login stays as it is: what needs a
    fresh login, needs a login.
    """
    sent = await _read_refresh(request)
    text = sent.refresh_token if sent.refresh_token is not None else cookie_of(request, services.settings)
    if text is None:
        raise Unauthenticated
    async with _counting_failures(request, services):
        token = services.sessions.recognise(text)
        await services.throttle.check_refresh(token.session_id)
        issued = await services.sessions.refresh(services.database, token, client_of(request))
    return token_response(request, response, services, issued, as_cookie=sent.refresh_token is None)


@router.post(
    "/logout",
    status_code=204,
    openapi_extra=json_body(LogoutRequest, {"all": False}, required=False),
    responses=ERRORS,
    summary="End this session, or all of mine",
)
async def logout(request: Request, response: Response, services: ServicesDep) -> None:
    """The session of the refresh token in the body or the cookie, or else of the access token. Its tokens are refused
    from the next request on.
    """
    sent = await _read(request, LogoutRequest)
    text = sent.refresh_token
    if text is None and ("authorization" not in request.headers or CONSOLE_HEADER in request.headers):
        text = cookie_of(request, services.settings)
    if text is None:
        await _log_out_caller(request, services, everywhere=sent.all)
    else:
        async with _counting_failures(request, services):
            token = services.sessions.recognise(text)
            await services.throttle.check_refresh(token.session_id)
            async with services.database.session() as session:
                await services.sessions.log_out(session, token, client_of(request), everywhere=sent.all)
    delete_cookie(request, response, services.settings)


@router.get("/sessions", summary="My sessions")
async def list_my_sessions(caller: KeyOwner, session: SessionDep, services: ServicesDep) -> SessionListResponse:
    rows = await services.sessions.list_live(session, caller.user)
    return SessionListResponse(data=[session_response(row, caller.principal.session) for row in rows])


@router.delete("/sessions/{session_id}", status_code=204, summary="End a session of mine")
async def end_my_session(
    session_id: SessionId, request: Request, caller: KeyOwner, session: SessionDep, services: ServicesDep
) -> None:
    """Its tokens are refused from the next request on. Calls in flight are settled."""
    row = await services.sessions.revoke(session, caller.user, session_id)
    actor = f"user:{caller.principal.user_id}"
    await services.sessions.note(session, row, "session.end", client_of(request), actor=actor)


@router.post(
    "/password",
    response_model_exclude_none=True,
    openapi_extra=json_body(
        ChangePasswordRequest,
        {"current_password": "the password until today", "new_password": "a sentence that only you know"},
    ),
    responses=PASSWORD_ERRORS,
    summary="Change my password",
)
async def change_password(
    request: Request, response: Response, caller: KeyOwner, session: SessionDep, services: ServicesDep
) -> TokenResponse:
    """All sessions end. The response has the tokens of a new one."""
    await session.commit()  # no transaction is open while the client sends the body
    sent = await _read(request, ChangePasswordRequest)
    address = client_address(request.scope)
    await services.throttle.check_failures(address)
    await services.throttle.check_login(caller.user.email, address)
    try:
        issued = await services.logins.change_password(
            caller.principal, sent.current_password, sent.new_password, client_of(request)
        )
    except InvalidCredentials:
        await services.throttle.count_failure(address)
        raise
    return token_response(request, response, services, issued, as_cookie=sent.cookie)


def session_response(row: Session, current: str | None = None) -> LoginSessionResponse:
    """A session as lists show it; `current` is the id of the caller's own."""
    return LoginSessionResponse(
        id=row.id,
        method=row.method,
        created_at=iso(row.created_ms),
        last_used_at=iso(row.rotated_ms),
        expires_at=iso(row.expires_ms),
        address=row.address,
        user_agent=row.user_agent,
        current=row.id == current,
    )


async def _read_refresh(request: Request) -> RefreshRequest:
    """A form names its token: the cookie is for requests of the console. JSON is read under every media type, since
    curl sends it as a form. Raises InvalidJson, InvalidRequest, BodyTooLarge.
    """
    body = await read_body(request.scope, request.receive, MAX_BODY_BYTES)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != FORM or not body or body.lstrip().startswith(b"{"):
        return strict_json.decode(RefreshRequest, body or b"{}")
    fields = fields_of(body)
    token = fields.get("refresh_token")
    if fields.get("grant_type") != "refresh_token" or token is None or len(token) > MAX_LENGTH:
        raise InvalidRequest("Send grant_type=refresh_token, and the refresh_token of a login or of the last refresh.")
    return RefreshRequest(refresh_token=token)


async def _read(request: Request, kind: type[Sent]) -> Sent:
    """The body of a request, strictly; no body is an empty object. Raises InvalidJson, InvalidRequest, BodyTooLarge."""
    return strict_json.decode(kind, await read_body(request.scope, request.receive, MAX_BODY_BYTES) or b"{}")


@asynccontextmanager
async def _counting_failures(request: Request, services: Services) -> AsyncIterator[None]:
    """A token that is refused in the block counts as a failed authentication of the client's address."""
    try:
        yield
    except Unauthenticated:
        await services.throttle.count_failure(client_address(request.scope))
        raise


async def _log_out_caller(request: Request, services: Services, *, everywhere: bool) -> None:
    """End the session of the access token. Raises Forbidden for one that was issued without a session."""
    caller = await authenticate(services.authenticator, services.throttle, request.scope, Access.KEYS)
    await services.throttle.check_read(caller)
    if caller.session is None:
        raise Forbidden("This access token is of no session. It ends by itself within minutes.")
    async with services.database.session(TenantScope(caller.tenant_id)) as session:
        user, _ = await services.authenticator.load_account(session, caller)
        row = await session.get_one(Session, caller.session)
        await services.sessions.end_one_or_all(session, row, user, client_of(request), everywhere=everywhere)
