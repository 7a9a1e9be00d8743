"""The caller's API keys, for programs and SDKs, which cannot log in. Only a user who has logged in can manage them."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Request
from msgspec import Meta
from pydantic import BaseModel, Field

from tollkeeper.api import strict_json
from tollkeeper.api.dependencies import KeyOwner, ServicesDep, SessionDep
from tollkeeper.api.formats import iso
from tollkeeper.api.middleware import read_body
from tollkeeper.api.openapi_parts import link
from tollkeeper.errors import StepUpRequired
from tollkeeper.identity import keys
from tollkeeper.identity.models import ApiKey
from tollkeeper.principal import Access

router = APIRouter(prefix="/auth/keys", tags=["auth"])

MAX_BODY_BYTES = 16 * 1024

KeyId = Annotated[str, Path(examples=["key_0123456789abcdef01234567"])]


class CreateKeyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The key's name, its scopes, and when it expires. Without `expires_at` it is valid until it is revoked."""

    name: Annotated[str, Meta(min_length=1, max_length=keys.MAX_NAME_LENGTH)]
    scopes: Annotated[tuple[Literal["ai", "me"], ...], Meta(min_length=1, max_length=2)] = ("ai", "me")
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class KeyResponse(BaseModel):
    """An API key. `prefix` is the beginning of it."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: str | None
    expires_at: str | None


class CreatedKeyResponse(KeyResponse):
    """A new key. `key` is returned only this once; the server stores its hash."""

    key: Annotated[str, Field(repr=False)]


class KeyListResponse(BaseModel):
    """The keys that are not revoked, the newest first."""

    data: list[KeyResponse]


_, _schemas = msgspec.json.schema_components([CreateKeyRequest])
EXAMPLE = {"name": "nightly report", "scopes": ["ai"]}
REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _schemas["CreateKeyRequest"], "example": EXAMPLE}},
    }
}

LINKS: dict[int | str, dict[str, Any]] = {
    201: {"links": {"Revoke": link("revoke_key_auth_keys__key_id__delete", key_id="$response.body#/id")}}
}


@router.post("", status_code=201, openapi_extra=REQUEST_BODY, responses=LINKS, summary="Create an API key")
async def make_key(
    request: Request, caller: KeyOwner, session: SessionDep, services: ServicesDep
) -> CreatedKeyResponse:
    if not services.authenticator.is_fresh(caller.principal):
        raise StepUpRequired
    services.throttle.check_key_creation(caller.principal)
    await session.commit()  # no transaction is open while the client sends the body
    session.expire_all()  # the account is read anew after it
    sent = strict_json.decode(CreateKeyRequest, await read_body(request.scope, request.receive, MAX_BODY_BYTES))
    expires_ms = int(sent.expires_at.timestamp() * 1000) if sent.expires_at is not None else None
    now_ms = services.clock.now_ms()
    user, _ = await services.authenticator.load_account(session, caller.principal)
    created = await keys.create(session, user, sent.name, {*map(Access, sent.scopes)}, expires_ms, now_ms)
    return CreatedKeyResponse(**_key_response(created.row).model_dump(), key=created.secret)


@router.get("", summary="My API keys")
async def my_keys(caller: KeyOwner, session: SessionDep) -> KeyListResponse:
    return KeyListResponse(data=[_key_response(row) for row in await keys.list_keys(session, caller.user)])


@router.delete("/{key_id}", status_code=204, summary="Revoke an API key")
async def revoke_key(key_id: KeyId, caller: KeyOwner, session: SessionDep, services: ServicesDep) -> None:
    """The next request with the key is refused. Calls in flight are settled."""
    await keys.revoke(session, caller.user, key_id, services.clock.now_ms())


def _key_response(row: ApiKey) -> KeyResponse:
    return KeyResponse(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        scopes=row.scopes.split(),
        created_at=iso(row.created_ms),
        expires_at=iso(row.expires_ms),
    )
