"""Tenants and users: who exists, who may act, who logs in."""

import re
from datetime import UTC, datetime

from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.db import Database
from tollkeeper.errors import InvalidCredentials, InvalidRequest, NotFound, Unauthenticated
from tollkeeper.identity.models import ApiKey, Tenant, User
from tollkeeper.identity.passwords import Passwords
from tollkeeper.principal import Principal, Role

MAX_EMAIL_LENGTH = 254
MAX_NAME_LENGTH = 100
_EMAIL = re.compile(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+")
_NAME = re.compile(r"[^\x00-\x1f]+")


def normal_email(email: str) -> str:
    """The form in which e-mail addresses are stored and compared. Raises InvalidRequest."""
    normal = email.strip().lower()
    if len(normal) > MAX_EMAIL_LENGTH or not _EMAIL.fullmatch(normal):
        raise InvalidRequest("That is not an e-mail address.")
    return normal


async def login(database: Database, passwords: Passwords, email: str, password: str) -> Principal:
    """Whose password this is. No transaction is open while it is hashed.

    Raises InvalidCredentials, after the same time whether the user or the password is wrong.
    """
    query = select(User, Tenant).join(Tenant, col(Tenant.id) == User.tenant_id)
    try:
        normal = normal_email(email)
    except InvalidRequest:
        normal = ""  # nobody's
    async with database.session() as session:
        found = (await session.exec(query.where(User.email == normal))).first()
    user, tenant = found or (None, None)
    good = await passwords.verify(password, user.password_hash if user else None)
    if not good or user is None or tenant is None or user.disabled_at or tenant.disabled_at:
        raise InvalidCredentials
    return principal_of(user)


async def current(session: AsyncSession, caller: Principal, now_ms: int) -> tuple[User, Tenant]:
    """The rows behind a principal. Raises Unauthenticated when user, tenant or credential are no longer good."""
    found = (
        await session.exec(
            select(User, Tenant).join(Tenant, col(Tenant.id) == User.tenant_id).where(User.id == caller.user_id)
        )
    ).first()
    if found is None:
        raise Unauthenticated
    user, tenant = found
    if user.disabled_at or tenant.disabled_at or not await _is_good(session, user, caller, now_ms):
        raise Unauthenticated
    return user, tenant


async def _is_good(session: AsyncSession, user: User, caller: Principal, now_ms: int) -> bool:
    if caller.api_key is None:
        return principal_of(user) == caller
    key = await session.get(ApiKey, caller.api_key)
    return key is not None and key.user_id == user.id and user.tenant_id == caller.tenant_id and key.is_good(now_ms)


def principal_of(user: User, api_key: str | None = None) -> Principal:
    """Who acts when this user does, with one of the user's API keys or by a login."""
    assert user.id is not None
    return Principal(user.id, user.tenant_id, Role(user.role), user.token_version, api_key)


async def create_tenant(session: AsyncSession, name: str) -> Tenant:
    """Raises InvalidRequest for a name that is taken or is none."""
    name = name.strip()
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise InvalidRequest(f"A tenant's name has 1 to {MAX_NAME_LENGTH} printable characters.")
    tenant = Tenant(name=name)
    session.add(tenant)
    await _flush(session, f"There is a tenant named {name} already.")
    return tenant


async def create_user(session: AsyncSession, tenant_name: str, email: str, password_hash: str, role: Role) -> User:
    """Raises NotFound for the tenant, InvalidRequest for an e-mail address that is taken or is none."""
    tenant = await tenant_named(session, tenant_name)
    assert tenant.id is not None
    email = normal_email(email)
    user = User(tenant_id=tenant.id, email=email, password_hash=password_hash, role=role.value)
    session.add(user)
    await _flush(session, f"There is a user with the e-mail address {email} already.")
    return user


async def _flush(session: AsyncSession, taken: str) -> None:
    try:
        await session.flush()
    except IntegrityError:
        raise InvalidRequest(taken) from None


async def tenant_named(session: AsyncSession, name: str) -> Tenant:
    """Raises NotFound."""
    tenant = (await session.exec(select(Tenant).where(Tenant.name == name.strip()))).first()
    if tenant is None:
        raise NotFound(f"There is no tenant named {name.strip()}.")
    return tenant


async def user_with_email(session: AsyncSession, email: str) -> User:
    """Raises NotFound, InvalidRequest."""
    user = (await session.exec(select(User).where(User.email == normal_email(email)))).first()
    if user is None:
        raise NotFound(f"There is no user with the e-mail address {normal_email(email)}.")
    return user


async def list_tenants(session: AsyncSession) -> list[Tenant]:
    return list((await session.exec(select(Tenant).order_by(col(Tenant.name)))).all())


async def list_users(session: AsyncSession, tenant: Tenant | None = None) -> list[tuple[User, Tenant]]:
    """Users with their tenants; of one tenant, or of all."""
    query = select(User, Tenant).join(Tenant, col(Tenant.id) == User.tenant_id).order_by(col(User.email))
    if tenant is not None:
        query = query.where(User.tenant_id == tenant.id)
    return list((await session.exec(query)).all())


async def any_user(session: AsyncSession) -> bool:
    """Whether anyone exists yet."""
    return (await session.exec(select(User.id).limit(1))).first() is not None


def disable(row: User | Tenant) -> None:
    """From the next request on nothing works; what is in flight is settled."""
    if row.disabled_at is None:
        row.disabled_at = datetime.now(UTC)
    if isinstance(row, User):
        row.token_version += 1


def enable(row: User | Tenant) -> None:
    row.disabled_at = None


def change_password(user: User, password_hash: str) -> None:
    """Every token given out so far is dead from the next request on."""
    user.password_hash = password_hash
    user.token_version += 1
