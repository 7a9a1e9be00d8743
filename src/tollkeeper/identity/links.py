"""One-time links: one sets a user's password, another creates a user who was invited.

A link's token has 256 random bits, and is stored as its SHA-256. It stands in the fragment of the link's URL, which
browsers do not send: so it is in no access log. Only a POST consumes it.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import ColumnElement, and_
from sqlmodel import col, delete, func, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.errors import InvalidLink, InvalidRequest, NotFound
from tollkeeper.identity.models import OneTimeLink, Tenant, User, UserKind
from tollkeeper.principal import Role
from tollkeeper.tenant_scope import TenantScope

RESET_LIFETIME_MS = 3_600_000
INVITATION_LIFETIME_MS = 7 * 86_400_000
MAX_OPEN_INVITATIONS = 1_000
"""Of one tenant."""
MAX_TOKEN_LENGTH = 100
"""Of what a client may send. A token has 43 characters."""
_INVITATION_ID = re.compile(r"inv_[0-9a-f]{24}")


class LinkKind(StrEnum):
    """What a link is for."""

    RESET = "reset"
    INVITATION = "invitation"


@dataclass(frozen=True, slots=True)
class NewLink:
    """A link that was just created, and its token, which is not stored."""

    row: OneTimeLink
    token: str = field(repr=False)


async def create_reset(session: AsyncSession, user: User, *, created_by: int | None, now_ms: int) -> NewLink:
    """A link that sets a user's password, in place of earlier ones. Raises InvalidRequest for a service account."""
    if user.kind == UserKind.SERVICE:
        raise InvalidRequest("A service account has no password. It authenticates with API keys.")
    await session.exec(
        delete(OneTimeLink).where(col(OneTimeLink.user_id) == user.id, col(OneTimeLink.kind) == LinkKind.RESET.value)
    )
    row = OneTimeLink(
        id=f"res_{secrets.token_hex(12)}",
        token_hash="",
        kind=LinkKind.RESET.value,
        tenant_id=user.tenant_id,
        user_id=user.id,
        token_version=user.token_version,
        created_by=created_by,
        created_ms=now_ms,
        expires_ms=now_ms + RESET_LIFETIME_MS,
    )
    return await _add(session, row)


async def create_invitation(
    session: AsyncSession, tenant_id: int, email: str, role: Role, *, created_by: int | None, now_ms: int
) -> NewLink:
    """A link that creates a user with this normalized e-mail address and role. Raises InvalidRequest."""
    count = select(func.count()).where(_are_open_invitations(TenantScope(tenant_id), now_ms))
    if (await session.exec(count)).one() >= MAX_OPEN_INVITATIONS:
        raise InvalidRequest(f"A tenant has at most {MAX_OPEN_INVITATIONS:,} open invitations. Withdraw one first.")
    row = OneTimeLink(
        id=f"inv_{secrets.token_hex(12)}",
        token_hash="",
        kind=LinkKind.INVITATION.value,
        tenant_id=tenant_id,
        email=email,
        role=role.value,
        created_by=created_by,
        created_ms=now_ms,
        expires_ms=now_ms + INVITATION_LIFETIME_MS,
    )
    return await _add(session, row)


async def find(session: AsyncSession, kind: LinkKind, token: str, now_ms: int) -> OneTimeLink:
    """The link of this token, which is not consumed. Raises InvalidLink: after the same query for a token that is
    unknown, used or expired.
    """
    found = (await session.exec(select(OneTimeLink).where(_is_usable(kind, token, now_ms)))).first()
    if found is None:
        raise InvalidLink
    await _require_right(session, found)
    return found


async def consume(session: AsyncSession, kind: LinkKind, token: str, now_ms: int) -> OneTimeLink:
    """The link of this token, which no other request can consume after the transaction. Raises InvalidLink."""
    use = update(OneTimeLink).where(_is_usable(kind, token, now_ms)).values(used_ms=now_ms)
    used = (await session.exec(use.returning(col(OneTimeLink.id)))).first()
    if used is None:
        raise InvalidLink
    link = await session.get(OneTimeLink, used[0], populate_existing=True)
    assert link is not None
    await _require_right(session, link)
    return link


async def list_invitations(
    session: AsyncSession, scope: TenantScope, *, after: str | None, limit: int, now_ms: int
) -> list[OneTimeLink]:
    """At most `limit` invitations that can be accepted, by id; with `after`, those with greater ids."""
    query = select(OneTimeLink).where(_are_open_invitations(scope, now_ms))
    if after is not None:
        query = query.where(col(OneTimeLink.id) > after)
    return list((await session.exec(query.order_by(col(OneTimeLink.id)).limit(limit))).all())


async def withdraw(session: AsyncSession, scope: TenantScope, invitation_id: str, now_ms: int) -> OneTimeLink:
    """Delete an invitation that could be accepted. Returns what it was. Raises NotFound."""
    if not _INVITATION_ID.fullmatch(invitation_id):
        raise NotFound
    query = select(OneTimeLink).where(_are_open_invitations(scope, now_ms), OneTimeLink.id == invitation_id)
    link = (await session.exec(query.with_for_update())).first()
    if link is None:
        raise NotFound
    await session.delete(link)
    await session.flush()
    return link


async def _add(session: AsyncSession, row: OneTimeLink) -> NewLink:
    token = secrets.token_urlsafe(32)
    row.token_hash = _hash(token)
    session.add(row)
    await session.flush()
    return NewLink(row, token)


async def _require_right(session: AsyncSession, link: OneTimeLink) -> None:
    """Raises InvalidLink if the link would give more than its maker may give now, or to someone who may not have it.

    Its tenant must not be disabled; who made it must still administer the tenant. A reset ends with each new password,
    role or state of its user.
    """
    tenant = await session.get(Tenant, link.tenant_id)
    user = await session.get(User, link.user_id) if link.user_id is not None else None
    maker = await session.get(User, link.created_by) if link.created_by is not None else None
    if tenant is None or tenant.disabled_at is not None:
        raise InvalidLink
    if link.created_by is not None and not _may_have_made(maker, link, user):
        raise InvalidLink
    if link.kind == LinkKind.RESET and (
        user is None or user.disabled_at is not None or user.token_version != link.token_version
    ):
        raise InvalidLink


def _may_have_made(maker: User | None, link: OneTimeLink, user: User | None) -> bool:
    if maker is None or maker.disabled_at is not None:
        return False
    given = Role(link.role) if link.role is not None else Role(user.role) if user is not None else Role.MEMBER
    is_own_tenant = maker.role == Role.TENANT_ADMIN and maker.tenant_id == link.tenant_id
    return maker.role == Role.OPERATOR or (is_own_tenant and given is not Role.OPERATOR)


def _is_usable(kind: LinkKind, token: str, now_ms: int) -> ColumnElement[bool]:
    return and_(
        col(OneTimeLink.token_hash) == _hash(token),
        col(OneTimeLink.kind) == kind.value,
        col(OneTimeLink.used_ms).is_(None),
        col(OneTimeLink.expires_ms) > now_ms,
    )


def _are_open_invitations(scope: TenantScope, now_ms: int) -> ColumnElement[bool]:
    return and_(
        scope.condition(col(OneTimeLink.tenant_id)),
        col(OneTimeLink.kind) == LinkKind.INVITATION.value,
        col(OneTimeLink.used_ms).is_(None),
        col(OneTimeLink.expires_ms) > now_ms,
    )


def _hash(token: str) -> str:
    """One round of SHA-256 is enough, since a token has 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
