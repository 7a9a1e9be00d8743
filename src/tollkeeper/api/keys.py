"""The caller's API keys, for programs and SDKs, which cannot log in. Only a user who has logged in can manage them."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Request
from msgspec import Meta
from pydantic import BaseModel, Field

from tollkeeper import moments
from tollkeeper.administration import keys as acts
from tollkeeper.administration.administrator import Administrator
from tollkeeper.api import strict_json
from tollkeeper.api.bearer import client_address
from tollkeeper.api.dependencies import AuthenticatedUser, KeyOwner, Services, ServicesDep, SessionDep
from tollkeeper.api.formats import Moment, iso
from tollkeeper.api.middleware import read_body
from tollkeeper.api.openapi_parts import json_body, link
from tollkeeper.identity import keys
from tollkeeper.identity.models import ApiKey
from tollkeeper.key_limits import MAX_LIST_LENGTH, MAX_MODEL_LENGTH, SURFACES, KeyLimits, make_limits
from tollkeeper.principal import Access
from tollkeeper.tags import decode_tags, split_tag
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.tenant_scope import TenantScope

router = APIRouter(prefix="/auth/keys", tags=["auth"])

MAX_BODY_BYTES = 16 * 1024

KeyId = Annotated[str, Path(max_length=40, examples=["key_0123456789abcdef01234567"])]
Names = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_LENGTH)], ...],
    Meta(min_length=1, max_length=MAX_LIST_LENGTH),
]

Surfaces = Annotated[
    tuple[
        Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_LENGTH, extra_json_schema={"enum": list(SURFACES)})], ...
    ],
    Meta(min_length=1, max_length=MAX_LIST_LENGTH),
]
"""As the server checks them, so that its error can name them all."""


class CreateKeyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The key's name, its scopes, when it expires, and what it is limited to. Without `expires_at` it is valid until it
    is revoked. `models` are names as in calls, `surfaces` paths without `/ai/` or `/v1/`, `networks` addresses of
    clients, with a prefix length if they are networks. Without a list, there is no such limit.
    """

    name: Annotated[str, Meta(min_length=1, max_length=keys.MAX_NAME_LENGTH)]
    scopes: Annotated[tuple[Literal["ai", "me"], ...], Meta(min_length=1, max_length=2)] = ("ai", "me")
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    models: Names | None = None
    surfaces: Surfaces | None = None
    networks: Names | None = None


class KeyResponse(BaseModel):
    """An API key. `prefix` is the beginning of it. `models`, `surfaces` and `networks` are what it is limited to; null
    is no limit. All its calls have the `tags`, which override those of their headers. `last_used_at` is exact to
    the minute.
    """

    id: str
    name: str
    prefix: str
    scopes: list[str]
    models: list[str] | None
    surfaces: list[str] | None
    networks: list[str] | None
    tags: dict[str, str]
    created_at: Moment
    expires_at: Moment | None
    last_used_at: Moment | None


class CreatedKeyResponse(KeyResponse):
    """A new key. `key` is returned only this once; the server stores its hash."""

    key: Annotated[str, Field(repr=False)]


class KeyListResponse(BaseModel):
    """The keys that are not revoked, the newest first."""

    data: list[KeyResponse]


EXAMPLE = {"name": "nightly report", "scopes": ["ai"], "models": ["gpt-4o-mini"], "networks": ["192.0.2.0/24"]}

LINKS: dict[int | str, dict[str, Any]] = {
    201: {"links": {"Revoke": link("revoke_my_key", key_id="$response.body#/id")}}
}


@router.post(
    "",
    status_code=201,
    openapi_extra=json_body(CreateKeyRequest, EXAMPLE),
    responses=LINKS,
    summary="Create an API key",
)
async def create_my_key(
    request: Request, caller: KeyOwner, session: SessionDep, services: ServicesDep
) -> CreatedKeyResponse:
    """It needs a fresh login."""
    await session.commit()  # no transaction is open while the client sends the body
    await services.throttle.check_key_creation(caller.principal)
    session.expire_all()  # the account is read anew after it
    sent = strict_json.decode(CreateKeyRequest, await read_body(request.scope, request.receive, MAX_BODY_BYTES))
    user, _ = await services.authenticator.load_account(session, caller.principal)
    owner = _owner(request, caller, session, services)
    scopes = {*map(Access, sent.scopes)}
    created = await acts.create_key(owner, user, sent.name, scopes, epoch_ms(sent.expires_at), limits_in(sent))
    return CreatedKeyResponse(**key_fields(created.row, None), key=created.secret)


@router.get("", summary="My API keys")
async def list_my_keys(
    request: Request, caller: KeyOwner, session: SessionDep, services: ServicesDep
) -> KeyListResponse:
    owner = _owner(request, caller, session, services)
    found = await acts.list_keys(owner, user_id=caller.principal.user_id, limit=keys.MAX_KEYS_PER_USER)
    return KeyListResponse(data=[KeyResponse(**key_fields(*one)) for one in found])


@router.delete("/{key_id}", status_code=204, summary="Revoke an API key")
async def revoke_my_key(
    request: Request, key_id: KeyId, caller: KeyOwner, session: SessionDep, services: ServicesDep
) -> None:
    """The next request with the key is refused. Calls in flight are settled."""
    owner = _owner(request, caller, session, services)
    await acts.revoke_key(owner, key_id, user_id=caller.principal.user_id)


def _owner(request: Request, caller: AuthenticatedUser, session: SessionDep, services: Services) -> Administrator:
    """The caller as the administrator of their own keys: with no right beyond their own tenant."""
    principal = caller.principal
    return Administrator(
        session=session,
        audit_log=services.audit_log,
        name=f"user:{principal.user_id}",
        role=principal.role,
        scope=TenantScope(principal.tenant_id),
        now_ms=services.clock.now_ms(),
        tenant_id=principal.tenant_id,
        is_fresh=services.authenticator.is_fresh(principal),
        address=client_address(request.scope),
        correlation_id=correlation_id.get(),
    )


def limits_in(sent: CreateKeyRequest) -> KeyLimits:
    """The limits in a request. Raises InvalidRequest."""
    return make_limits(sent.models, sent.surfaces, sent.networks)


def epoch_ms(moment: datetime | None) -> int | None:
    """A moment in milliseconds since the epoch; None for None. Raises InvalidRequest for one that is out of range."""
    return moments.epoch_ms(moment) if moment is not None else None


def key_fields(row: ApiKey, used_ms: int | None) -> dict[str, Any]:
    """The fields of a KeyResponse."""
    limits = keys.limits_of(row)
    return {
        "id": row.id,
        "name": row.name,
        "prefix": row.prefix,
        "scopes": row.scopes.split(),
        "models": limits.models,
        "surfaces": limits.surfaces,
        "networks": limits.networks,
        "tags": dict(map(split_tag, decode_tags(row.tags))),
        "created_at": iso(row.created_ms),
        "expires_at": iso(row.expires_ms),
        "last_used_at": iso(used_ms),
    }
