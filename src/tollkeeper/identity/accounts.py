"""Tenants and users: create, find, disable; log in; load the account behind a principal."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import ARRAY, Text, and_, cast
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, func, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.database.engine import Database
from tollkeeper.errors import InvalidCredentials, InvalidRequest, NotFound, Unauthenticated
from tollkeeper.identity.models import ApiKey, Session, Tenant, User, UserKind
from tollkeeper.identity.passwords import Passwords
from tollkeeper.principal import Principal, Role
from tollkeeper.printable import unprintable_character
from tollkeeper.tenant_scope import TenantScope

MAX_EMAIL_LENGTH = 254
MAX_NAME_LENGTH = 100
EMAILS_PER_QUERY = 500
_EMAIL = re.compile(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+")


def normalize_email(email: str) -> str:
    """Returns the form in which e-mail addresses are stored and compared: lower case, NFC. Raises InvalidRequest."""
    normalized = unicodedata.normalize("NFC", email.strip().lower())
    if len(normalized) > MAX_EMAIL_LENGTH or not _EMAIL.fullmatch(normalized):
        raise InvalidRequest("That is not an e-mail address.")
    return normalized


async def login(database: Database, passwords: Passwords, email: str, password: str, now_ms: int) -> Principal:
    """Returns the user with this e-mail address and password. No transaction is open while the password is hashed.

    Raises InvalidCredentials, after the same time for an unknown user and a wrong password; DatabaseUnavailable, and
    RateLimited when too many passwords wait to be hashed.
    """
    query = select(User, Tenant).join(Tenant, col(Tenant.id) == User.tenant_id)
    try:
        normalized = normalize_email(email)
    except InvalidRequest:
        normalized = ""  # matches no user
    async with database.session() as session:
        found = (await session.exec(query.where(User.email == normalized))).first()
    user, tenant = found or (None, None)
    verified = await passwords.verify(password, user.password_hash or None if user else None)
    if not verified.matches or user is None or tenant is None or user.disabled_at or tenant.disabled_at:
        raise InvalidCredentials
    if verified.new_hash is not None:
        await _upgrade_hash(database, user, verified.new_hash)
    return replace(principal_of(user), authenticated_ms=now_ms)


async def _upgrade_hash(database: Database, user: User, new_hash: str) -> None:
    """Store a hash of the same password in the present form, unless the password was changed meanwhile."""
    is_unchanged = (col(User.id) == user.id, col(User.password_hash) == user.password_hash)
    async with database.session() as session:
        await session.exec(update(User).where(*is_unchanged).values(password_hash=new_hash))


async def load_account(session: AsyncSession, caller: Principal, now_ms: int) -> tuple[User, Tenant]:
    """Returns the principal's rows. Raises Unauthenticated when user, tenant or credential is no longer valid."""
    is_theirs = and_(col(Session.id) == caller.session, col(Session.user_id) == User.id)
    found = (
        await session.exec(
            select(User, Tenant, col(Session.revoked_ms), col(Session.expires_ms))
            .join(Tenant, col(Tenant.id) == User.tenant_id)
            .outerjoin(Session, is_theirs)
            .where(User.id == caller.user_id)
        )
    ).first()
    if found is None:
        raise Unauthenticated
    user, tenant, revoked_ms, expires_ms = found
    has_session = caller.session is None or (revoked_ms is None and expires_ms is not None and now_ms < expires_ms)
    is_valid = has_session and await _is_valid_credential(session, user, caller, now_ms)
    if user.disabled_at or tenant.disabled_at or not is_valid:
        raise Unauthenticated
    return user, tenant


async def _is_valid_credential(session: AsyncSession, user: User, caller: Principal, now_ms: int) -> bool:
    if caller.api_key is None:
        return principal_of(user) == caller
    key = await session.get(ApiKey, caller.api_key)
    return key is not None and key.user_id == user.id and user.tenant_id == caller.tenant_id and key.is_valid(now_ms)


def principal_of(user: User, api_key: str | None = None) -> Principal:
    """Returns the principal of a user, who has logged in or sent the API key of this id."""
    assert user.id is not None
    return Principal(user.id, user.tenant_id, Role(user.role), user.token_version, api_key)


async def find_service_account(database: Database, tenant_id: int, user_id: int) -> Principal | None:
    """The principal of a tenant's service account; None if there is none with this id, or it is disabled.

    Raises DatabaseUnavailable.
    """
    is_theirs = User.id == user_id, User.tenant_id == tenant_id, User.kind == UserKind.SERVICE
    async with database.session(TenantScope(tenant_id)) as session:
        user = (await session.exec(select(User).where(*is_theirs, col(User.disabled_at).is_(None)))).first()
    return replace(principal_of(user), tags=None) if user is not None else None


async def create_tenant(session: AsyncSession, name: str) -> Tenant:
    """Add a tenant. Raises InvalidRequest for a name that is taken or not valid."""
    tenant = Tenant(name=_check_tenant_name(name))
    session.add(tenant)
    await _flush(session, f"There is a tenant named {tenant.name} already.")
    return tenant


async def rename_tenant(session: AsyncSession, tenant: Tenant, name: str) -> None:
    """Change a tenant's name. Raises InvalidRequest for a name that is taken or not valid."""
    tenant.name = name = _check_tenant_name(name)
    await _flush(session, f"There is a tenant named {name} already.")


def _check_tenant_name(name: str) -> str:
    """Returns the name without spaces around it. Raises InvalidRequest."""
    name = name.strip()
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise InvalidRequest(f"A tenant's name has 1 to {MAX_NAME_LENGTH} printable characters.")
    if (found := unprintable_character(name)) is not None:
        raise InvalidRequest(f"A tenant's name has only printable characters, and {found} is none.")
    return name


async def create_user(session: AsyncSession, tenant_name: str, email: str, password_hash: str, role: Role) -> User:
    """Add a user. Raises NotFound for the tenant, InvalidRequest for an e-mail address that is taken or not valid."""
    tenant = await get_tenant_by_name(session, tenant_name)
    assert tenant.id is not None
    return await add_user(
        session, User(tenant_id=tenant.id, email=normalize_email(email), password_hash=password_hash, role=role.value)
    )


async def add_user(session: AsyncSession, user: User) -> User:
    """Add a user, whose e-mail address is normalized. Raises InvalidRequest for an address that is taken."""
    session.add(user)
    noun = "user with the e-mail address" if user.kind == UserKind.PERSON else "service account with the name"
    await _flush(session, f"There is a {noun} {user.email} already.")
    return user


async def change_email(session: AsyncSession, user: User, email: str) -> None:
    """Set a person's e-mail address, which is normalized. Raises InvalidRequest for an address that is taken."""
    user.email = email
    await _flush(session, f"There is a user with the e-mail address {email} already.")


async def create_users(session: AsyncSession, users: Iterable[User]) -> None:
    """Add users, whose e-mail addresses are normalized. Raises InvalidRequest if one of the addresses is taken."""
    session.add_all(users)
    await _flush(session, "One of these users has been created in the meantime. Nothing was changed.")


async def taken_emails(session: AsyncSession, emails: Sequence[str]) -> set[str]:
    """Returns those of the normalized e-mail addresses that have a user."""
    taken: set[str] = set()
    for start in range(0, len(emails), EMAILS_PER_QUERY):
        some = emails[start : start + EMAILS_PER_QUERY]
        if session.get_bind().dialect.name == "postgresql":  # the function sees the users of all tenants
            query = select(func.taken_emails(cast(some, ARRAY(Text))))
        else:
            query = select(User.email).where(col(User.email).in_(some))
        taken.update((await session.exec(query)).all())
    return taken


async def _flush(session: AsyncSession, conflict: str) -> None:
    """Write the pending rows. Raises InvalidRequest, with the detail `conflict`, where a unique value is taken."""
    try:
        await session.flush()
    except IntegrityError:
        raise InvalidRequest(conflict) from None


async def get_tenant_by_name(session: AsyncSession, name: str) -> Tenant:
    """Returns the tenant of that name. Raises NotFound."""
    tenant = (await session.exec(select(Tenant).where(Tenant.name == name.strip()))).first()
    if tenant is None:
        raise NotFound(f"There is no tenant named {name.strip()}.")
    return tenant


async def get_user_by_email(session: AsyncSession, email: str) -> User:
    """Returns the user with that e-mail address. Raises NotFound, InvalidRequest."""
    user = (await session.exec(select(User).where(User.email == normalize_email(email)))).first()
    if user is None:
        raise NotFound(f"There is no user with the e-mail address {normalize_email(email)}.")
    return user


async def list_tenants(session: AsyncSession) -> list[Tenant]:
    """Returns all tenants, by name."""
    return list((await session.exec(select(Tenant).order_by(col(Tenant.name)))).all())


async def list_users(session: AsyncSession, tenant: Tenant | None = None) -> list[tuple[User, Tenant]]:
    """Returns users with their tenants, by e-mail address; of one tenant, or of all."""
    query = select(User, Tenant).join(Tenant, col(Tenant.id) == User.tenant_id).order_by(col(User.email))
    if tenant is not None:
        query = query.where(User.tenant_id == tenant.id)
    return list((await session.exec(query)).all())


async def has_users(session: AsyncSession) -> bool:
    """Whether the database has any user."""
    return (await session.exec(select(User.id).limit(1))).first() is not None


def disable(row: User | Tenant, now_ms: int) -> None:
    """Refuse every request from the next one on. Calls in flight are settled. A user's tokens stay invalid for good."""
    if row.disabled_at is None:
        row.disabled_at = datetime.fromtimestamp(now_ms / 1000, UTC)
    if isinstance(row, User):
        row.token_version += 1


def enable(row: User | Tenant) -> None:
    """Accept requests again. A user has to log in anew. Raises InvalidRequest for an erased user."""
    if isinstance(row, User) and row.erased_at is not None:
        raise InvalidRequest("An erased user stays disabled.")
    row.disabled_at = None


async def revoke_sessions(session: AsyncSession, user: User, now_ms: int) -> int:
    """End every login of a user. Returns their number."""
    are_theirs = (col(Session.user_id) == user.id, col(Session.revoked_ms).is_(None))
    return (await session.exec(update(Session).where(*are_theirs).values(revoked_ms=now_ms))).rowcount


def change_password(user: User, password_hash: str) -> None:
    """Set a password's hash. Every token issued so far is invalid from the next request on. Raises InvalidRequest for a
    service account, which has none.
    """
    if user.kind == UserKind.SERVICE:
        raise InvalidRequest("A service account has no password. It authenticates with API keys.")
    user.password_hash = password_hash
    user.token_version += 1
