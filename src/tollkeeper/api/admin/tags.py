"""Tags: administrators declare, list, change and close those that the calls of their tenant may have."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Response
from msgspec import Meta
from pydantic import BaseModel

from tollkeeper.administration import tags
from tollkeeper.administration.tags import DEFAULT_MAX_VALUES, MAX_ALLOWED_VALUES, MAX_KNOWN_VALUES, TagTerms
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, NO_TENANT, IdCursor, Limit, Page
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.identity.tag_models import TagName
from tollkeeper.tags import TAG_NAME_PATTERN, TAG_VALUE_PATTERN

router = APIRouter(prefix="/admin/tags", tags=["admin"])

TagId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[3])]
OfTenant = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])]
AfterValue = Annotated[str | None, Query(pattern=TAG_VALUE_PATTERN.replace(r"\Z", "$"), max_length=64, examples=["42"])]
Value = Annotated[str, Meta(pattern=TAG_VALUE_PATTERN)]


class TagTermsRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`values` are those that the tag may have; null or absent: calls bring any value, up to `max_values`, and further
    ones are refused. With `required`, every call of the tenant must have the tag.
    """

    values: Annotated[tuple[Value, ...], Meta(min_length=1, max_length=MAX_ALLOWED_VALUES)] | None = None
    max_values: Annotated[int, Meta(ge=1, le=MAX_KNOWN_VALUES)] = DEFAULT_MAX_VALUES
    required: bool = False


class DeclareTagRequest(TagTermsRequest, kw_only=True):
    """A tag of a tenant, by default your own. Requests name it in `X-Tollkeeper-Tags`. It keeps its name."""

    name: Annotated[str, Meta(pattern=TAG_NAME_PATTERN)]
    tenant_id: Annotated[int, Meta(ge=1, le=MAX_ID)] | None = None


class TagResponse(BaseModel):
    """A tag. `known_values` is how many values it has; with `any_value`, calls bring more, up to `max_values`."""

    id: int
    tenant_id: int
    name: str
    any_value: bool
    required: bool
    known_values: int
    max_values: int
    created_at: Moment


class TagValueResponse(BaseModel):
    """A value of a tag."""

    value: str


@router.get("", responses=NO_TENANT, summary="Tags of calls")
async def list_tags(
    caller: TenantAdmin, tenant_id: OfTenant = None, limit: Limit = 20, cursor: IdCursor = None
) -> Page[TagResponse]:
    """Of your tenant; for operators, of all tenants, or of one."""
    found = await tags.list_tags(caller.admin, tenant_id, after=cursor or 0, limit=limit + 1)
    page = [_response(tag) for tag in found[:limit]]
    return Page(data=page, next_cursor=str(page[-1].id) if len(found) > limit else None)


@router.post(
    "",
    status_code=201,
    response_model=TagResponse,
    responses=NO_TENANT,
    openapi_extra=json_body(DeclareTagRequest, {"name": "cost-centre", "values": ["42", "43"]}),
    summary="Declare a tag",
)
async def declare_tag(caller: TenantAdmin) -> Response:
    """A tag that was closed gets the new terms."""

    async def declare(sent: DeclareTagRequest) -> TagResponse:
        return _response(await tags.declare_tag(caller.admin, sent.tenant_id, sent.name, _terms(sent)))

    return await caller.once(DeclareTagRequest, declare, status=201)


@router.put(
    "/{tag_id}",
    openapi_extra=json_body(TagTermsRequest, {"max_values": 5000}),
    summary="Replace the terms of a tag",
)
async def change_tag(tag_id: TagId, caller: TenantAdmin) -> TagResponse:
    """It counts from the next call on. Calls in flight are settled."""
    sent = await caller.read(TagTermsRequest)
    return _response(await tags.change_tag(caller.admin, tag_id, _terms(sent)))


@router.delete("/{tag_id}", status_code=204, summary="Close a tag")
async def close_tag(tag_id: TagId, caller: TenantAdmin) -> None:
    """Calls that name it are refused. Its quotas and charges stay."""
    await tags.close_tag(caller.admin, tag_id)


@router.get("/{tag_id}/values", summary="Values of a tag")
async def list_tag_values(
    tag_id: TagId, caller: TenantAdmin, limit: Limit = 20, cursor: AfterValue = None
) -> Page[TagValueResponse]:
    """Those that it may have; with `any_value`, those that calls have brought."""
    tag = await tags.get_tag(caller.admin, tag_id)
    found = await tags.list_values(caller.admin, tag, after=cursor or "", limit=limit + 1)
    return Page(
        data=[TagValueResponse(value=one) for one in found[:limit]],
        next_cursor=found[limit - 1] if len(found) > limit else None,
    )


def _terms(sent: TagTermsRequest) -> TagTerms:
    return TagTerms(sent.values, sent.max_values, sent.required)


def _response(tag: TagName) -> TagResponse:
    return TagResponse(
        id=tag.id or 0,
        tenant_id=tag.tenant_id,
        name=tag.name,
        any_value=tag.any_value,
        required=tag.is_required,
        known_values=tag.known_values,
        max_values=tag.max_values,
        created_at=iso(tag.created_ms),
    )
