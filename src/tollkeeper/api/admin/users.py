"""Users: operators administer all of them, a tenant's administrator those of the tenant, except operators."""

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import BaseModel

from tollkeeper.administration import erasure, users
from tollkeeper.administration.default_quotas import give_default_quotas
from tollkeeper.administration.users import NewUser, UserFilter
from tollkeeper.api.admin.caller import AdminCaller, TenantAdmin, changes_in, etag
from tollkeeper.api.admin.pages import MAX_ID, NO_TENANT, IdCursor, Limit, Page
from tollkeeper.api.formats import Moment, iso_datetime
from tollkeeper.api.openapi_parts import json_body
from tollkeeper.identity.accounts import MAX_EMAIL_LENGTH
from tollkeeper.identity.models import User, UserKind
from tollkeeper.identity.passwords import MAX_BYTES, MIN_CHARACTERS
from tollkeeper.principal import Role

router = APIRouter(prefix="/admin/users", tags=["admin"])

MAX_REASON_LENGTH = 500

UserId = Annotated[int, Path(ge=1, le=MAX_ID, examples=[17])]
Email = Annotated[str, Meta(min_length=3, max_length=MAX_EMAIL_LENGTH)]
ServiceName = Annotated[str, Meta(min_length=1, max_length=60)]
Password = Annotated[str, Meta(min_length=MIN_CHARACTERS, max_length=MAX_BYTES)]
TenantNumber = Annotated[int, Meta(ge=1, le=MAX_ID)]
RoleName = Literal["member", "tenant_admin", "operator"]
KindName = Literal["person", "service"]
OfTenant = Annotated[int | None, Query(ge=1, le=MAX_ID, examples=[1])]
WithEmail = Annotated[str | None, Query(min_length=3, max_length=MAX_EMAIL_LENGTH, examples=["ada@example.com"])]


class CreateUserRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A person has an `email`. Without a `password`, they get in by a one-time link or by single sign-on. A service
    account has a `name`, which is unique in its tenant, and only API keys. Without a `tenant_id`, it is the caller's.
    """

    email: Email | None = None
    name: ServiceName | None = None
    role: RoleName = "member"
    kind: KindName = "person"
    tenant_id: TenantNumber | None = None
    password: Password | None = None


class ChangeUserRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Absent fields stay as they are."""

    email: Email | UnsetType = UNSET
    role: RoleName | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class EraseUserRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The reason stays in the audit log for good: it must not name the person."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON_LENGTH)]


class UserResponse(BaseModel):
    """A user. A service account's `email` is made of its name; an erased user's is a placeholder. Neither gets mail."""

    id: int
    tenant_id: int
    email: str
    role: str
    kind: str
    disabled: bool
    erased: bool
    created_at: Moment


@router.post(
    "",
    status_code=201,
    response_model=UserResponse,
    responses=NO_TENANT,
    openapi_extra=json_body(CreateUserRequest, {"email": "ada@example.com", "role": "member"}),
    summary="Create a user or a service account",
)
async def create_user(caller: TenantAdmin) -> Response:
    """The user has the default quota of the tenant, if there is one. Operators and tenant admins are created after a
    fresh login only.
    """

    async def create(sent: CreateUserRequest) -> UserResponse:
        password_hash = ""
        if sent.password is not None:
            hashing = caller.services.passwords.hash(sent.password, tenant_id=caller.principal.tenant_id)
            password_hash = await caller.outside_transaction(hashing)
        new = NewUser(sent.email, sent.name, Role(sent.role), UserKind(sent.kind), sent.tenant_id, password_hash)
        return user_response(await users.create_user(caller.admin, new))

    response = await caller.once(CreateUserRequest, create)
    await give_quota(caller, UserResponse.model_validate_json(bytes(response.body)).id)
    return response


@router.get("", responses=NO_TENANT, summary="List the users")
async def list_users(
    caller: TenantAdmin,
    tenant_id: OfTenant = None,
    email: WithEmail = None,
    role: RoleName | None = None,
    kind: KindName | None = None,
    disabled: Annotated[bool | None, Query(examples=[False])] = None,
    limit: Limit = 20,
    cursor: IdCursor = None,
) -> Page[UserResponse]:
    wanted = UserFilter(tenant_id, email, Role(role) if role else None, UserKind(kind) if kind else None, disabled)
    found = await users.list_users(caller.admin, wanted, after=cursor, limit=limit + 1)
    page = [user_response(user) for user in found[:limit]]
    return Page(data=page, next_cursor=str(page[-1].id) if len(found) > limit else None)


@router.get("/{user_id}", summary="A user")
async def get_user(user_id: UserId, caller: TenantAdmin, response: Response) -> UserResponse:
    found = user_response(await users.get_user(caller.admin, user_id))
    response.headers["ETag"] = etag(found)
    return found


@router.patch(
    "/{user_id}",
    openapi_extra=json_body(ChangeUserRequest, {"disabled": True}),
    summary="Change a user's role or e-mail address, or disable the user",
)
async def change_user(user_id: UserId, caller: TenantAdmin, response: Response) -> UserResponse:
    """A new role or state ends the user's logins with the next request. Calls in flight are settled."""
    sent = await caller.read(ChangeUserRequest)
    user = await users.get_user(caller.admin, user_id, to_change=True)
    caller.require_match(user_response(user))
    changed = user_response(await users.change_user(caller.admin, user, changes_in(sent)))
    response.headers["ETag"] = etag(changed)
    return changed


@router.post(
    "/{user_id}/erase",
    response_model=UserResponse,
    responses={409: {"description": "Calls of the user are in flight; the user is disabled now"}},
    openapi_extra=json_body(EraseUserRequest, {"reason": "request of the person"}),
    summary="Erase who a user is, for good",
)
async def erase_user(user_id: UserId, caller: TenantAdmin) -> Response:
    """What the user has spent stays, under the user's number. This cannot be undone, and needs a fresh login."""

    async def act(sent: EraseUserRequest) -> UserResponse:
        user = await users.get_user(caller.admin, user_id, to_change=True)
        return user_response(await erasure.erase_user(caller.admin, user, sent.reason))

    return await caller.once(EraseUserRequest, act, status=200)


async def give_quota(caller: AdminCaller, user_id: int) -> None:
    """Give a new user the default quota, after the user is committed; also when the request is repeated, since the
    process may have ended between the two.
    """
    await caller.admin.session.commit()
    services = caller.services
    await give_default_quotas(services.database, services.ledger, [user_id], actor=caller.admin.name)


def user_response(user: User) -> UserResponse:
    assert user.id is not None
    return UserResponse(
        id=user.id,
        tenant_id=user.tenant_id,
        email=user.email,
        role=user.role,
        kind=user.kind,
        disabled=user.disabled_at is not None,
        erased=user.erased_at is not None,
        created_at=iso_datetime(user.created_at),
    )
