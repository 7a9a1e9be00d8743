"""Tenants' own provider keys. A tenant's administrator manages those of the own tenant, an operator those of any."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query
from msgspec import Meta
from pydantic import BaseModel, SecretStr

from tollkeeper.administration import provider_keys
from tollkeeper.api.admin.caller import TenantAdmin
from tollkeeper.api.admin.pages import MAX_ID, Limit, Page
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.configuration.models import ProviderKey

router = APIRouter(prefix="/admin/provider-keys", tags=["admin"])

ProviderName = Annotated[str, Path(min_length=1, max_length=40, examples=["openai"])]
TenantId = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1], description="By default the caller's own.")]
KeyCursor = Annotated[
    str | None, Query(max_length=60, pattern=r"^\d{1,10}/[A-Za-z0-9._-]{1,40}$", examples=["1/openai"])
]


class SetProviderKeyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The key, as the provider has issued it."""

    key: Annotated[str, Meta(min_length=16, max_length=512)]


class ProviderKeyResponse(BaseModel):
    """A key, to recognise it by: `suffix` are its last four characters. The key itself is never shown again."""

    tenant_id: int
    provider: str
    suffix: str
    created_at: Moment


@router.get("", summary="List the tenants' own provider keys")
async def list_provider_keys(
    caller: TenantAdmin, tenant_id: TenantId = None, limit: Limit = 20, cursor: KeyCursor = None
) -> Page[ProviderKeyResponse]:
    """Those of the own tenant; an operator sees those of all tenants, or of one."""
    after = _position(cursor) if cursor is not None else (0, "")
    found = [
        key for key in await provider_keys.list_keys(caller.admin, tenant_id) if (key.tenant_id, key.provider) > after
    ]
    page = [_key_response(key) for key in found[:limit]]
    return Page(data=page, next_cursor=f"{page[-1].tenant_id}/{page[-1].provider}" if len(found) > limit else None)


@router.get("/{provider}", summary="A tenant's own key for a provider")
async def get_provider_key(
    provider: ProviderName, caller: TenantAdmin, tenant_id: TenantId = None
) -> ProviderKeyResponse:
    return _key_response(await provider_keys.get_key(caller.admin, tenant_id, provider))


@router.put(
    "/{provider}",
    openapi_extra=json_body(SetProviderKeyRequest, {"key": "sk-of-the-tenant-0123456789"}),
    summary="Set or replace a tenant's own key for a provider",
)
async def set_provider_key(
    provider: ProviderName, caller: TenantAdmin, tenant_id: TenantId = None
) -> ProviderKeyResponse:
    """Within about a second, the tenant's calls of this provider carry this key, and never again the operator's."""
    sent = await caller.read(SetProviderKeyRequest)
    services, secret = caller.services, SecretStr(sent.key)
    key = await provider_keys.set_key(
        caller.admin, services.data_keys, services.gateway.catalog, tenant_id, provider, secret
    )
    return _key_response(key)


@router.delete("/{provider}", status_code=204, summary="Delete a tenant's own key for a provider")
async def delete_provider_key(provider: ProviderName, caller: TenantAdmin, tenant_id: TenantId = None) -> None:
    """Within about a second, the tenant's calls of this provider carry the operator's key again."""
    await provider_keys.delete_key(caller.admin, tenant_id, provider)


def _position(cursor: str) -> tuple[int, str]:
    tenant_id, _, provider = cursor.partition("/")
    return int(tenant_id), provider


def _key_response(key: ProviderKey) -> ProviderKeyResponse:
    return ProviderKeyResponse(
        tenant_id=key.tenant_id, provider=key.provider, suffix=key.suffix, created_at=iso(key.created_ms)
    )
