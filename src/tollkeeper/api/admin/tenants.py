"""The tenants: operators see and change all; a tenant's administrator sees their own, and changes its settings."""

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Path, Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import BaseModel

from tollkeeper.administration import tenants
from tollkeeper.api.admin.caller import Operator, TenantAdmin, changes_in, etag
from tollkeeper.api.admin.pages import MAX_ID, IdCursor, Limit, Page
from tollkeeper.api.formats import Moment, iso_datetime
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.identity.accounts import MAX_NAME_LENGTH
from tollkeeper.identity.models import Tenant

router = APIRouter(prefix="/admin/tenants", tags=["admin"])

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
WindowName = Literal["minute", "hour", "day", "month", "total"]
TenantId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[1])]


class CreateTenantRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A tenant's name is unique."""

    name: Name


class ChangeTenantRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Absent fields stay as they are. Name and state are for operators. `default_limit` tokens per `default_period` are
    the quota of each user who is created without one; null removes it.
    """

    name: Name | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    default_limit: Annotated[int, Meta(ge=0)] | UnsetType | None = UNSET
    default_period: WindowName | UnsetType | None = UNSET


class TenantResponse(BaseModel):
    """A tenant."""

    id: int
    name: str
    disabled: bool
    default_limit: int | None
    default_period: str | None
    created_at: Moment


@router.post(
    "",
    status_code=201,
    response_model=TenantResponse,
    openapi_extra=json_body(CreateTenantRequest, {"name": "acme"}),
    summary="Create a tenant",
)
async def create_tenant(caller: Operator) -> Response:
    async def create(sent: CreateTenantRequest) -> TenantResponse:
        return _tenant_response(await tenants.create_tenant(caller.admin, sent.name))

    return await caller.once(CreateTenantRequest, create)


@router.get("", summary="List the tenants")
async def list_tenants(caller: TenantAdmin, limit: Limit = 20, cursor: IdCursor = None) -> Page[TenantResponse]:
    found = await tenants.list_tenants(caller.admin, after=cursor, limit=limit + 1)
    page = [_tenant_response(tenant) for tenant in found[:limit]]
    return Page(data=page, next_cursor=str(page[-1].id) if len(found) > limit else None)


@router.get("/{tenant_id}", summary="A tenant")
async def get_tenant(tenant_id: TenantId, caller: TenantAdmin, response: Response) -> TenantResponse:
    found = _tenant_response(await tenants.get_tenant(caller.admin, tenant_id))
    response.headers["ETag"] = etag(found)
    return found


@router.patch(
    "/{tenant_id}",
    openapi_extra=json_body(ChangeTenantRequest, {"default_limit": 100_000, "default_period": "month"}),
    summary="Change a tenant's settings, or disable it",
)
async def change_tenant(tenant_id: TenantId, caller: TenantAdmin, response: Response) -> TenantResponse:
    """A disabled tenant is refused from the next request on. Calls in flight are settled."""
    sent = await caller.read(ChangeTenantRequest)
    tenant = await tenants.get_tenant(caller.admin, tenant_id, to_change=True)
    caller.require_match(_tenant_response(tenant))
    changed = _tenant_response(await tenants.change_tenant(caller.admin, tenant, changes_in(sent)))
    response.headers["ETag"] = etag(changed)
    return changed


def _tenant_response(tenant: Tenant) -> TenantResponse:
    assert tenant.id is not None
    return TenantResponse(
        id=tenant.id,
        name=tenant.name,
        disabled=tenant.disabled_at is not None,
        default_limit=tenant.default_limit,
        default_period=tenant.default_period,
        created_at=iso_datetime(tenant.created_at),
    )
