"""Groups: administrators create, list and close the groups of their tenant, and change who is a member."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Response
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.administration import groups
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, NO_TENANT, IdCursor, Limit, Page
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.identity.models import GroupMember, UserGroup
from tollkeeper.principal import GROUP_NAME_PATTERN

router = APIRouter(prefix="/admin/groups", tags=["admin"])

GroupId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[3])]
UserId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[17])]
CHANGED_AT_ONCE: dict[int | str, dict[str, Any]] = {
    409: {"description": "Another request changes the groups of this user"}
}
OfTenant = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])]


class CreateGroupRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A new group of a tenant, by default your own. Requests name it in `X-Tollkeeper-Group`. It keeps its name."""

    name: Annotated[str, Meta(pattern=GROUP_NAME_PATTERN)]
    tenant_id: Annotated[int, Meta(ge=1, le=MAX_ID)] | None = None


class PutMemberRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`default`: requests of the user that name no group count for this one, and no longer for another."""

    default: bool = False


class GroupResponse(BaseModel):
    """A group of a tenant's users."""

    id: int
    tenant_id: int
    name: str
    created_at: Moment


class GroupMemberResponse(BaseModel):
    """A member of a group. `default`: requests of the user that name no group count for this one."""

    user_id: int
    default: bool


@router.get("", responses=NO_TENANT, summary="Groups of users")
async def list_groups(
    caller: TenantAdmin, tenant_id: OfTenant = None, limit: Limit = 20, cursor: IdCursor = None
) -> Page[GroupResponse]:
    """Of your tenant; for operators, of all tenants, or of one."""
    found = await groups.list_groups(caller.admin, tenant_id, after=cursor or 0, limit=limit + 1)
    page = [_response(group) for group in found[:limit]]
    return Page(data=page, next_cursor=str(page[-1].id) if len(found) > limit else None)


@router.post(
    "",
    status_code=201,
    response_model=GroupResponse,
    responses=NO_TENANT,
    openapi_extra=json_body(CreateGroupRequest, {"name": "research"}),
    summary="Create a group",
)
async def create_group(caller: TenantAdmin) -> Response:
    async def create(sent: CreateGroupRequest) -> GroupResponse:
        return _response(await groups.create_group(caller.admin, sent.tenant_id, sent.name))

    return await caller.once(CreateGroupRequest, create, status=201)


@router.delete("/{group_id}", status_code=204, summary="Close a group")
async def close_group(group_id: GroupId, caller: TenantAdmin) -> None:
    """No call counts for it any more. Its quotas and charges stay, and its name is not used again."""
    await groups.close_group(caller.admin, group_id)


@router.get("/{group_id}/members", summary="Members of a group")
async def list_group_members(
    group_id: GroupId, caller: TenantAdmin, limit: Limit = 20, cursor: IdCursor = None
) -> Page[GroupMemberResponse]:
    group = await groups.get_group(caller.admin, group_id)
    found = await groups.list_members(caller.admin, group, after=cursor or 0, limit=limit + 1)
    page = [_member_response(member) for member in found[:limit]]
    return Page(data=page, next_cursor=str(page[-1].user_id) if len(found) > limit else None)


@router.put(
    "/{group_id}/members/{user_id}",
    responses=CHANGED_AT_ONCE,
    openapi_extra=json_body(PutMemberRequest, {"default": True}),
    summary="Make a user a member of a group",
)
async def put_group_member(group_id: GroupId, user_id: UserId, caller: TenantAdmin) -> GroupMemberResponse:
    """A user is in any number of groups, up to 50, and has at most one default group."""
    sent = await caller.read(PutMemberRequest)
    return _member_response(await groups.put_member(caller.admin, group_id, user_id, is_default=sent.default))


@router.delete("/{group_id}/members/{user_id}", status_code=204, summary="End a membership")
async def remove_group_member(group_id: GroupId, user_id: UserId, caller: TenantAdmin) -> None:
    """The user's next request for the group is refused. Calls in flight are settled on the quotas of the group."""
    await groups.remove_member(caller.admin, group_id, user_id)


def _response(group: UserGroup) -> GroupResponse:
    return GroupResponse(id=group.id or 0, tenant_id=group.tenant_id, name=group.name, created_at=iso(group.created_ms))


def _member_response(member: GroupMember) -> GroupMemberResponse:
    return GroupMemberResponse(user_id=member.user_id, default=member.is_default)
