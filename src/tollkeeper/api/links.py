"""A person with a one-time link uses it here, without an account: they set a password, or become a user.

A link is unknown, used, withdrawn or ended: the response is the same, after the same queries. The page that a browser
shows for a link reads the token from the fragment, and posts it; to get the page consumes nothing.
"""

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta
from pydantic import BaseModel
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.responses import HTMLResponse

from tollkeeper.administration import links
from tollkeeper.administration.default_quotas import give_default_quotas
from tollkeeper.administration.links import Visitor
from tollkeeper.administration.users import target_of
from tollkeeper.api import strict_json
from tollkeeper.api.bearer import client_address
from tollkeeper.api.dependencies import Services, ServicesDep
from tollkeeper.api.middleware import read_body
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.errors import InvalidLink
from tollkeeper.identity.links import MAX_TOKEN_LENGTH, LinkKind, find
from tollkeeper.identity.models import User
from tollkeeper.identity.passwords import MAX_BYTES, MIN_CHARACTERS, check_length
from tollkeeper.telemetry.correlation import correlation_id

router = APIRouter(prefix="/auth", tags=["auth"])

MAX_BODY_BYTES = 16 * 1024
EXAMPLE = {"token": "q1w2e3r4t5y6u7i8o9p0q1w2e3r4t5y6u7i8o9p0q1w", "password": "correct horse battery staple"}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is not valid JSON, or the link is unknown, used, withdrawn or ended"}
}
PAGE_ERRORS: dict[int | str, dict[str, Any]] = {429: {"description": "Too many requests"}}


class UseLinkRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The token of the link, and the new password."""

    token: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN_LENGTH)]
    password: Annotated[str, Meta(min_length=MIN_CHARACTERS, max_length=MAX_BYTES)]


class LinkUserResponse(BaseModel):
    """Who can log in now, with this e-mail address and the new password."""

    user_id: int
    tenant_id: int
    email: str
    role: str


@router.post(
    "/reset",
    openapi_extra=json_body(UseLinkRequest, EXAMPLE),
    responses=ERRORS,
    summary="Set a new password with a link",
)
async def reset_password(request: Request, services: ServicesDep) -> LinkUserResponse:
    """Every login of the user ends. API keys stay valid."""
    sent, password_hash = await _read(LinkKind.RESET, request, services)
    async with services.database.session() as session:
        user = await links.reset_password(_visitor(session, request, services), sent.token, password_hash)
    return _response(user)


@router.post(
    "/invitations",
    status_code=201,
    openapi_extra=json_body(UseLinkRequest, EXAMPLE),
    responses=ERRORS,
    summary="Accept an invitation",
)
async def accept_invitation(request: Request, services: ServicesDep) -> LinkUserResponse:
    """The new user has the default quota of the tenant, if there is one."""
    sent, password_hash = await _read(LinkKind.INVITATION, request, services)
    async with services.database.session() as session:
        user = await links.accept_invitation(_visitor(session, request, services), sent.token, password_hash)
    accepted = _response(user)
    await give_default_quotas(services.database, services.ledger, [accepted.user_id], actor=target_of(user))
    return accepted


async def _read(kind: LinkKind, request: Request, services: Services) -> tuple[UseLinkRequest, str]:
    """The body, and the hash of its password, which takes long: the link is looked up before it, and no transaction is
    open meanwhile. Tokens that do not exist count against the address, as failed logins do.

    Raises what reading a body raises; InvalidLink, RateLimited, DatabaseUnavailable.
    """
    address = client_address(request.scope)
    await services.throttle.check_failures(address)
    sent = strict_json.decode(UseLinkRequest, await read_body(request.scope, request.receive, MAX_BODY_BYTES))
    check_length(sent.password)
    try:
        async with services.database.session() as session:
            tenant_id = (await find(session, kind, sent.token, services.clock.now_ms())).tenant_id
    except InvalidLink:
        await services.throttle.count_failure(address)
        raise
    return sent, await services.passwords.hash(sent.password, tenant_id=tenant_id)


def _visitor(session: AsyncSession, request: Request, services: Services) -> Visitor:
    address = client_address(request.scope)
    return Visitor(session, services.audit_log, services.clock.now_ms(), address, correlation_id.get())


def _response(user: User) -> LinkUserResponse:
    assert user.id is not None
    return LinkUserResponse(user_id=user.id, tenant_id=user.tenant_id, email=user.email, role=user.role)


def _policy(page: str) -> str:
    """The Content-Security-Policy of the page: its own script and style, and requests to this server."""
    sources = [f"{tag}-src {_hash_of(page, tag)}" for tag in ("script", "style")]
    rest = ("connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'")
    return "; ".join(["default-src 'none'", *sources, *rest])


def _hash_of(page: str, tag: str) -> str:
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_PAGE = (files("tollkeeper.api") / "link_page.html").read_text("utf-8")
_HEADERS = {"Content-Security-Policy": _policy(_PAGE)}


@router.get("/reset", response_class=HTMLResponse, responses=PAGE_ERRORS, summary="The page of a reset link")
async def show_reset_page(request: Request, services: ServicesDep) -> HTMLResponse:
    """A browser shows it for a link: a form for a password. It consumes nothing."""
    return await _page(request, services)


@router.get("/invitations", response_class=HTMLResponse, responses=PAGE_ERRORS, summary="The page of an invitation")
async def show_invitation_page(request: Request, services: ServicesDep) -> HTMLResponse:
    """A browser shows it for a link: a form for a password. It consumes nothing."""
    return await _page(request, services)


async def _page(request: Request, services: Services) -> HTMLResponse:
    await services.throttle.check_document(client_address(request.scope))
    return HTMLResponse(_PAGE, headers=_HEADERS)
