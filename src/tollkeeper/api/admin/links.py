"""One-time links that administrators create: to reset a user's password, and to invite someone."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from tollkeeper.administration import links, users
from tollkeeper.administration.links import url_of
from tollkeeper.api.admin.caller import AdminCaller, TenantAdmin
from tollkeeper.api.admin.pages import NO_TENANT, Limit, Page
from tollkeeper.api.admin.users import Email, OfTenant, RoleName, TenantNumber, UserId
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.identity.links import NewLink
from tollkeeper.identity.models import OneTimeLink
from tollkeeper.principal import Role

router = APIRouter(prefix="/admin", tags=["admin"])

_ID = r"^inv_[0-9a-f]{24}$"
InvitationId = Annotated[str, Path(examples=["inv_0123456789abcdef01234567"])]
InvitationCursor = Annotated[str | None, Query(max_length=40, pattern=_ID, examples=["inv_0123456789abcdef01234567"])]


class ResetRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An empty object, or no body."""


class InviteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Who is invited, as what. Without a `tenant_id`, it is the caller's."""

    email: Email
    role: RoleName = "member"
    tenant_id: TenantNumber | None = None


class LinkResponse(BaseModel):
    """A new link. It is returned only this once; the server stores the token's hash."""

    url: Annotated[str, Field(repr=False)]
    token: Annotated[str, Field(repr=False)]
    expires_at: Moment


class InvitationResponse(BaseModel):
    """An invitation that can be accepted."""

    id: str
    tenant_id: int
    email: str | None
    role: str | None
    created_at: Moment
    expires_at: Moment


class NewInvitationResponse(InvitationResponse):
    """A new invitation. `url` and `token` are returned only this once; the server stores the token's hash."""

    url: Annotated[str, Field(repr=False)]
    token: Annotated[str, Field(repr=False)]


@router.post(
    "/users/{user_id}/reset",
    status_code=201,
    response_model=LinkResponse,
    openapi_extra=json_body(ResetRequest, {}, required=False),
    summary="Create a link with which a user sets a new password",
)
async def create_reset_link(user_id: UserId, caller: TenantAdmin) -> Response:
    """The link is valid for an hour, and once. Earlier ones end. This needs a fresh login, since it gives access."""

    async def create(_: ResetRequest) -> LinkResponse:
        user = await users.get_user(caller.admin, user_id, to_change=True)
        link = await links.create_reset(caller.admin, user)
        return LinkResponse(url=_url(caller, link), token=link.token, expires_at=iso(link.row.expires_ms))

    return await caller.once(ResetRequest, create)


@router.post(
    "/invitations",
    status_code=201,
    response_model=NewInvitationResponse,
    responses=NO_TENANT,
    openapi_extra=json_body(InviteRequest, {"email": "ada@example.com", "role": "member"}),
    summary="Invite someone to become a user",
)
async def invite_user(caller: TenantAdmin) -> Response:
    """The link is valid for seven days, and once. Operators and tenant admins are invited after a fresh login only."""

    async def create(sent: InviteRequest) -> NewInvitationResponse:
        link = await links.invite(caller.admin, sent.email, Role(sent.role), sent.tenant_id)
        shown = _invitation_response(link.row).model_dump()
        return NewInvitationResponse(**shown, url=_url(caller, link), token=link.token)

    return await caller.once(InviteRequest, create)


@router.get("/invitations", responses=NO_TENANT, summary="List the invitations that can be accepted")
async def list_invitations(
    caller: TenantAdmin, tenant_id: OfTenant = None, limit: Limit = 20, cursor: InvitationCursor = None
) -> Page[InvitationResponse]:
    found = await links.list_invitations(caller.admin, tenant_id, after=cursor, limit=limit + 1)
    page = [_invitation_response(link) for link in found[:limit]]
    return Page(data=page, next_cursor=page[-1].id if len(found) > limit else None)


@router.delete("/invitations/{invitation_id}", status_code=204, summary="Withdraw an invitation")
async def withdraw_invitation(invitation_id: InvitationId, caller: TenantAdmin) -> None:
    await links.withdraw_invitation(caller.admin, invitation_id)


def _url(caller: AdminCaller, link: NewLink) -> str:
    return url_of(link, caller.services.settings.public_base_url)


def _invitation_response(link: OneTimeLink) -> InvitationResponse:
    return InvitationResponse(
        id=link.id,
        tenant_id=link.tenant_id,
        email=link.email,
        role=link.role,
        created_at=iso(link.created_ms),
        expires_at=iso(link.expires_ms),
    )
