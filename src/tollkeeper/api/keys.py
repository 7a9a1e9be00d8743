"""The caller's API keys: for programs and SDKs, which cannot log in. Only who has logged in manages them."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta
from pydantic import BaseModel, Field

from tollkeeper.api.dependencies import KeyOwner, Parts, Session
from tollkeeper.api.formats import iso
from tollkeeper.api.metered import decode
from tollkeeper.clock import SystemClock
from tollkeeper.identity import keys
from tollkeeper.identity.models import ApiKey
from tollkeeper.principal import Access

router = APIRouter(prefix="/auth/keys", tags=["auth"])


class KeyWanted(msgspec.Struct, forbid_unknown_fields=True):
    """What the key is for, what it opens, and until when. Without `expires_at`, until it is revoked."""

    name: Annotated[str, Meta(min_length=1, max_length=keys.MAX_NAME_LENGTH)]
    scopes: Annotated[tuple[Literal["ai", "me"], ...], Meta(min_length=1, max_length=2)] = ("ai", "me")
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class KeyShown(BaseModel):
    """A key as it can be seen later: `prefix` is how it begins."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: str | None
    expires_at: str | None


class KeyMade(KeyShown):
    """A new key. `key` is shown this once, and kept as a hash."""

    key: Annotated[str, Field(repr=False)]


class KeyList(BaseModel):
    """Those that are not revoked, the newest first."""

    data: list[KeyShown]


_decoder = msgspec.json.Decoder(KeyWanted)
_, _schemas = msgspec.json.schema_components([KeyWanted])
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _schemas["KeyWanted"]}}}}


@router.post("", status_code=201, openapi_extra=BODY, summary="Make an API key")
async def make_key(request: Request, caller: KeyOwner, session: Session, parts: Parts) -> KeyMade:
    parts.throttle.check_keys(caller.principal)
    wanted: KeyWanted = decode(_decoder, await request.body())
    expires_ms = int(wanted.expires_at.timestamp() * 1000) if wanted.expires_at is not None else None
    made = await keys.create(
        session, caller.user, wanted.name, {*map(Access, wanted.scopes)}, expires_ms, SystemClock().now_ms()
    )
    return KeyMade(**_shown(made.row).model_dump(), key=made.secret)


@router.get("", summary="My API keys")
async def my_keys(caller: KeyOwner, session: Session) -> KeyList:
    return KeyList(data=[_shown(row) for row in await keys.keys_of(session, caller.user)])


@router.delete("/{key_id}", status_code=204, summary="Revoke an API key")
async def revoke_key(key_id: str, caller: KeyOwner, session: Session) -> None:
    """From the next request on it opens nothing; what is in flight is settled."""
    await keys.revoke(session, caller.user, key_id, SystemClock().now_ms())


def _shown(row: ApiKey) -> KeyShown:
    return KeyShown(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        scopes=row.scopes.split(),
        created_at=iso(row.created_ms),
        expires_at=iso(row.expires_ms),
    )
