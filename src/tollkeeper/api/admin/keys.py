"""API keys of other users, service accounts included: for the administrators of their tenant, and for operators."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import Field

from tollkeeper.administration import keys
from tollkeeper.administration.keys import KeyCursor, ListedKey
from tollkeeper.api.admin.caller import TenantAdmin, changes_in, etag
from tollkeeper.api.admin.pages import MAX_ID, Limit, Page
from tollkeeper.api.keys import (
    CreateKeyRequest,
    KeyId,
    KeyResponse,
    Names,
    Surfaces,
    epoch_ms,
    key_fields,
    limits_in,
)
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.identity.keys import MAX_NAME_LENGTH
from tollkeeper.identity.models import ApiKey
from tollkeeper.principal import Access
from tollkeeper.tags import MAX_TAGS_PER_CALL, make_tags

router = APIRouter(prefix="/admin/keys", tags=["admin"])

TagsOfKey = Annotated[dict[str, str], Meta(max_length=MAX_TAGS_PER_CALL)]
"""Names and values that all calls with the key have, whatever their headers say."""
UserId = Annotated[int, Meta(ge=1, le=MAX_ID)]
OfUser = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[17])]
OfTenant = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])]
Cursor = Annotated[
    str | None,
    Query(
        max_length=60, pattern=r"^\d{1,15}-key_[0-9a-f]{24}$", examples=["1812000000000-key_0123456789abcdef01234567"]
    ),
]


class CreateKeyForUserRequest(CreateKeyRequest, kw_only=True, forbid_unknown_fields=True):
    """A key for this user, a person or a service account. All its calls have the `tags`, whatever their headers say."""

    user_id: UserId
    tags: TagsOfKey | None = None


class ChangeKeyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Absent fields stay as they are; null removes the limit. The scopes of a key never change."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)] | UnsetType = UNSET
    expires_at: Annotated[datetime, Meta(tz=True)] | UnsetType | None = UNSET
    models: Names | UnsetType | None = UNSET
    surfaces: Surfaces | UnsetType | None = UNSET
    networks: Names | UnsetType | None = UNSET
    tags: TagsOfKey | UnsetType | None = UNSET


class AdminKeyResponse(KeyResponse):
    """An API key of a user."""

    user_id: int
    tenant_id: int


class CreatedAdminKeyResponse(AdminKeyResponse):
    """A new key. `key` is returned only this once; the server stores its hash."""

    key: Annotated[str, Field(repr=False)]


@router.post(
    "",
    status_code=201,
    response_model=CreatedAdminKeyResponse,
    openapi_extra=json_body(
        CreateKeyForUserRequest,
        {"user_id": 17, "name": "nightly report", "scopes": ["ai"], "networks": ["192.0.2.0/24"]},
    ),
    summary="Create an API key for a user",
)
async def create_key(caller: TenantAdmin) -> Response:
    """It needs a fresh login. A user of a higher role than the caller's gets no key here."""

    async def create(sent: CreateKeyForUserRequest) -> CreatedAdminKeyResponse:
        user = await keys.get_user(caller.admin, sent.user_id)
        scopes = {*map(Access, sent.scopes)}
        terms = epoch_ms(sent.expires_at), limits_in(sent), make_tags(sent.tags or {})
        made = await keys.create_key(caller.admin, user, sent.name, scopes, *terms)
        return CreatedAdminKeyResponse(**_admin_fields(made.row, None), key=made.secret)

    return await caller.once(CreateKeyForUserRequest, create)


@router.get("", summary="List API keys, the newest first")
async def list_keys(
    caller: TenantAdmin,
    user_id: OfUser = None,
    tenant_id: OfTenant = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[AdminKeyResponse]:
    found = await keys.list_keys(
        caller.admin, tenant_id=tenant_id, user_id=user_id, after=_parse_cursor(cursor), limit=limit + 1
    )
    page = found[:limit]
    next_cursor = f"{page[-1].row.created_ms}-{page[-1].row.id}" if len(found) > limit else None
    return Page(data=[AdminKeyResponse(**_admin_fields(*one)) for one in page], next_cursor=next_cursor)


@router.get("/{key_id}", summary="An API key of a user")
async def get_key(key_id: KeyId, caller: TenantAdmin, response: Response) -> AdminKeyResponse:
    """Its ETag does not change when the key is used."""
    found = await keys.get_key(caller.admin, key_id)
    response.headers["ETag"] = etag(_versioned(found))
    return AdminKeyResponse(**_admin_fields(*found))


@router.patch(
    "/{key_id}",
    openapi_extra=json_body(ChangeKeyRequest, {"models": ["gpt-4o-mini"], "expires_at": "2027-06-30T00:00:00Z"}),
    summary="Change an API key's name, expiry or limits",
)
async def change_key(key_id: KeyId, caller: TenantAdmin, response: Response) -> AdminKeyResponse:
    """It needs a fresh login. Servers have the limits of a key in memory for up to 30 seconds."""
    changes = changes_in(await caller.read(ChangeKeyRequest))
    if "expires_at" in changes:
        changes["expires_ms"] = epoch_ms(changes.pop("expires_at"))
    found = await keys.get_key(caller.admin, key_id, to_change=True)
    caller.require_match(_versioned(found))
    changed = await keys.change_key(caller.admin, found, changes)
    response.headers["ETag"] = etag(_versioned(changed))
    return AdminKeyResponse(**_admin_fields(*changed))


@router.delete("/{key_id}", status_code=204, summary="Revoke an API key of a user")
async def revoke_key(key_id: KeyId, caller: TenantAdmin) -> None:
    """The next request with the key is refused. Calls in flight are settled."""
    await keys.revoke_key(caller.admin, key_id)


def _versioned(listed: ListedKey) -> AdminKeyResponse:
    """What the ETag is made of: all that an administrator can change."""
    return AdminKeyResponse(**_admin_fields(listed.row, None))


def _parse_cursor(cursor: str | None) -> KeyCursor | None:
    if cursor is None:
        return None
    created_ms, _, key_id = cursor.partition("-")
    return KeyCursor(int(created_ms), key_id)


def _admin_fields(row: ApiKey, used_ms: int | None) -> dict[str, Any]:
    return key_fields(row, used_ms) | {"user_id": row.user_id, "tenant_id": row.tenant_id}
