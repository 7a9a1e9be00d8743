"""Users: create, find, change, disable and enable, within what the administrator may give."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import col, select

from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.tenants import differences, get_tenant
from tollkeeper.errors import Forbidden, InvalidRequest, NotFound
from tollkeeper.identity import accounts
from tollkeeper.identity.models import User, UserKind
from tollkeeper.principal import Role

RESERVED_DOMAIN = "invalid"
"""No mail can be sent there (RFC 2606, section 2): names of service accounts and of erased users end in it."""
_SERVICE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,58}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user to be created. A person has an `email`, a service account a `name`, which is unique in its tenant.

    An empty `password_hash` matches no password. Without a `tenant_id`, it is the administrator's tenant.
    """

    email: str | None = None
    name: str | None = None
    role: Role = Role.MEMBER
    kind: UserKind = UserKind.PERSON
    tenant_id: int | None = None
    password_hash: str = ""


@dataclass(frozen=True, slots=True)
class UserFilter:
    """Which users are listed: those with all of these properties. None is any."""

    tenant_id: int | None = None
    email: str | None = None
    role: Role | None = None
    kind: UserKind | None = None
    disabled: bool | None = None


async def create_user(admin: Administrator, new: NewUser) -> User:
    """Raises Forbidden or StepUpRequired for the role, NotFound for the tenant, InvalidRequest."""
    tenant_id = await find_tenant_id(admin, new.tenant_id)
    check_grant(admin, new.role)
    user = await accounts.add_user(admin.session, make_user(new, tenant_id))
    await admin.note(tenant_id, "user.create", target_of(user), after=record_of(user))
    return user


async def import_users(admin: Administrator, rows: Sequence[User]) -> None:
    """Create the rows of a file, all or none, with one line of the audit log per tenant. Raises InvalidRequest."""
    for row in rows:
        check_grant(admin, Role(row.role))
    await accounts.create_users(admin.session, rows)
    for tenant_id in sorted({row.tenant_id for row in rows}):
        created = {str(row.id): row.role for row in rows if row.tenant_id == tenant_id}
        await admin.note(tenant_id, "user.import", f"tenant:{tenant_id}", after={"users": created})


async def get_user(admin: Administrator, user_id: int, *, to_change: bool = False) -> User:
    """The user of that id, if the administrator may see it; locked, if it is to be changed. Raises NotFound."""
    query = select(User).where(User.id == user_id, admin.scope.condition(col(User.tenant_id)))
    if to_change:
        query = query.with_for_update()
    user = (await admin.session.exec(query)).first()
    if user is None:
        raise NotFound
    return user


async def list_users(admin: Administrator, wanted: UserFilter, *, after: int | None, limit: int) -> list[User]:
    """At most `limit` users by id, those that the administrator may see; with `after`, those with greater ids.

    Raises NotFound for a tenant that the administrator may not see, InvalidRequest for the e-mail address.
    """
    query = select(User).where(admin.scope.narrow(wanted.tenant_id).condition(col(User.tenant_id)))
    if wanted.email is not None:
        query = query.where(User.email == accounts.normalize_email(wanted.email))
    if wanted.role is not None:
        query = query.where(User.role == wanted.role.value)
    if wanted.kind is not None:
        query = query.where(User.kind == wanted.kind.value)
    if wanted.disabled is not None:
        disabled_at = col(User.disabled_at)
        query = query.where(disabled_at.is_not(None) if wanted.disabled else disabled_at.is_(None))
    if after is not None:
        query = query.where(col(User.id) > after)
    return list((await admin.session.exec(query.order_by(col(User.id)).limit(limit))).all())


async def change_user(admin: Administrator, user: User, changes: dict[str, Any]) -> User:
    """Change fields of a user: `role`, `disabled`, `email`. Absent fields stay.

    A new role or state ends the user's logins and links. Raises Forbidden, StepUpRequired, InvalidRequest.
    """
    require_power_over(admin, user)
    before, old_email = record_of(user), user.email
    if "role" in changes and changes["role"] != user.role:
        _change_role(admin, user, Role(changes["role"]))
    if "disabled" in changes and changes["disabled"] != (user.disabled_at is not None):
        await _set_enabled(admin, user, enabled=not changes["disabled"])
    if "email" in changes:
        await _change_email(admin, user, changes["email"])
    after = record_of(user)
    if after == before and user.email == old_email:
        return user
    await admin.session.flush()
    new_address = {"email": "changed"} if user.email != old_email else {}
    await admin.note(
        user.tenant_id,
        "user.change",
        target_of(user),
        before=differences(after, before),
        after=differences(before, after) | new_address,
    )
    return user


async def change_password(admin: Administrator, user: User, password_hash: str) -> None:
    """Set a user's password. It ends the user's logins and links. Raises Forbidden, StepUpRequired, InvalidRequest."""
    require_power_over(admin, user)
    admin.require_fresh_login()
    accounts.change_password(user, password_hash)
    await accounts.revoke_sessions(admin.session, user, admin.now_ms)
    await admin.note(user.tenant_id, "user.password", target_of(user))


def check_grant(admin: Administrator, role: Role) -> None:
    """Raises Forbidden or StepUpRequired unless the administrator may give someone this role now."""
    if role is Role.OPERATOR:
        admin.require_operator()
    if role is not Role.MEMBER:
        admin.require_fresh_login()


def require_power_over(admin: Administrator, user: User) -> None:
    """Raises Forbidden for operators, whom only operators may change; InvalidRequest for someone who was erased."""
    if user.role == Role.OPERATOR and not admin.is_operator:
        raise Forbidden("Only operators may change an operator.")
    if user.erased_at is not None:
        raise InvalidRequest("This user was erased.")


def require_another(admin: Administrator, user: User) -> None:
    """Raises Forbidden if the user is the administrator, who neither locks themselves out nor raises their own role."""
    if admin.user_id == user.id:
        raise Forbidden(
            "You cannot change your own role, and not disable or erase yourself. Another administrator can."
        )


async def find_tenant_id(admin: Administrator, tenant_id: int | None) -> int:
    """The tenant of something new: the administrator's own, if none is named. Raises NotFound, InvalidRequest."""
    wanted = tenant_id if tenant_id is not None else admin.tenant_id
    if wanted is None:
        raise InvalidRequest("Name the tenant.")
    await get_tenant(admin, wanted)
    return wanted


def person_email(email: str) -> str:
    """Returns the normalized address of a person. Raises InvalidRequest for one that cannot receive mail."""
    normalized = accounts.normalize_email(email)
    if normalized.endswith(f".{RESERVED_DOMAIN}"):
        raise InvalidRequest(f"The domain .{RESERVED_DOMAIN} is reserved: no mail can be sent there.")
    return normalized


def service_email(name: str, tenant_id: int) -> str:
    """Returns what a service account has for an e-mail address: unique, and none that can receive mail.

    Raises InvalidRequest.
    """
    if not _SERVICE_NAME.fullmatch(name):
        raise InvalidRequest(
            "A service account's name has 1 to 60 of the characters a-z, 0-9, '.', '_' and '-'. The first and the last"
            " are letters or digits."
        )
    return f"{name}@{tenant_id}.service.{RESERVED_DOMAIN}"


def make_user(new: NewUser, tenant_id: int) -> User:
    """The row of a new user. Raises InvalidRequest."""
    if new.kind is UserKind.PERSON:
        if new.email is None or new.name is not None:
            raise InvalidRequest("A person has an e-mail address, and no other name.")
        email = person_email(new.email)
    else:
        if new.name is None or new.email is not None:
            raise InvalidRequest("A service account has a name, and no e-mail address.")
        if new.password_hash:
            raise InvalidRequest("A service account has no password. It authenticates with API keys.")
        _require_member(new.role)
        email = service_email(new.name, tenant_id)
    return User(
        tenant_id=tenant_id,
        email=email,
        password_hash=new.password_hash,
        role=new.role.value,
        kind=new.kind.value,
    )


def target_of(user: User) -> str:
    """How the audit log names a user."""
    return f"user:{user.id}"


def record_of(user: User) -> dict[str, Any]:
    """The fields of a user for the audit log, which has no e-mail addresses."""
    return {"role": user.role, "kind": user.kind, "disabled": user.disabled_at is not None}


def _change_role(admin: Administrator, user: User, role: Role) -> None:
    require_another(admin, user)
    check_grant(admin, role)
    if user.kind == UserKind.SERVICE:
        _require_member(role)
    user.role = role.value
    user.token_version += 1


async def _set_enabled(admin: Administrator, user: User, *, enabled: bool) -> None:
    require_another(admin, user)
    if enabled:
        accounts.enable(user)
        return
    accounts.disable(user, admin.now_ms)
    await accounts.revoke_sessions(admin.session, user, admin.now_ms)


async def _change_email(admin: Administrator, user: User, email: str) -> None:
    if user.kind == UserKind.SERVICE:
        raise InvalidRequest("A service account has no e-mail address. Its name does not change.")
    normalized = person_email(email)
    if normalized != user.email:
        await accounts.change_email(admin.session, user, normalized)


def _require_member(role: Role) -> None:
    if role is not Role.MEMBER:
        raise InvalidRequest("A service account is a member: API keys cannot administer.")
