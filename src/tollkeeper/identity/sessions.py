"""Sessions: a login gives a short-lived access token and a refresh token, which is replaced by each use.

A refresh token that is used again after it was replaced was stolen, from the user or by them, so its session is revoked
(RFC 9700, 4.14.2). For GRACE_MS, the replacement is repeated instead: the response to the first use may have been lost.
"""

import hmac
from collections.abc import Mapping
from typing import Any

from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.audit_log.log import Act, AuditLog
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import NotFound, Unauthenticated
from tollkeeper.identity import accounts
from tollkeeper.identity.issued_tokens import Client as Client
from tollkeeper.identity.issued_tokens import IssuedTokens as IssuedTokens
from tollkeeper.identity.issued_tokens import Method as Method
from tollkeeper.identity.models import Session, Tenant, User
from tollkeeper.identity.refresh_tokens import RefreshToken, RefreshTokens
from tollkeeper.identity.tokens import Tokens
from tollkeeper.principal import Principal, Role

GRACE_MS = 10_000
MAX_SESSIONS_PER_USER = 50
"""Of those that are live. A further login ends the oldest."""
MAX_USER_AGENT_LENGTH = 200
MAX_ADDRESS_LENGTH = 45
HOUR_MS = 3_600_000


MAX_LIFETIMES_MS = {Method.OIDC: 12 * HOUR_MS}
"""The provider cannot tell this server that a user has left, so its users log in anew each day."""


class Sessions:
    """Opens, refreshes, lists and revokes sessions. `hours` is how long one lasts after the login."""

    def __init__(self, tokens: Tokens, keys: DataKeys, audit_log: AuditLog, clock: Clock, *, hours: int) -> None:
        self._tokens = tokens
        self._refresh_tokens = RefreshTokens(keys)
        self._audit_log = audit_log
        self._clock = clock
        self._lifetime_ms = hours * HOUR_MS

    async def open(
        self,
        session: AsyncSession,
        user: User,
        method: Method,
        client: Client,
        *,
        action: str = "login",
        authenticated_ms: int | None = None,
    ) -> IssuedTokens:
        """Open a session for a user who has proved who they are, and note it in the audit log as `action`, in the
        transaction of `session`. `authenticated_ms` is when they did so, by default now.
        """
        now_ms = self._clock.now_ms()
        assert user.id is not None
        token = self._refresh_tokens.first()
        lifetime_ms = min(self._lifetime_ms, MAX_LIFETIMES_MS.get(method, self._lifetime_ms))
        row = Session(
            id=token.session_id,
            tenant_id=user.tenant_id,
            user_id=user.id,
            method=method.value,
            role=user.role,
            token_version=user.token_version,
            generation=token.generation,
            token_hash=token.hash,
            created_ms=now_ms,
            authenticated_ms=authenticated_ms if authenticated_ms is not None else now_ms,
            rotated_ms=now_ms,
            access_ends_ms=0,
            expires_ms=now_ms + lifetime_ms,
            address=client.address[:MAX_ADDRESS_LENGTH],
            user_agent=client.user_agent[:MAX_USER_AGENT_LENGTH],
        )
        issued = self._issue(row, token)
        row.access_ends_ms = issued.access_ends_ms
        await session.exec(select(User.id).where(User.id == user.id).with_for_update(key_share=True))
        session.add(row)
        await session.flush()
        await self._end_surplus(session, user, now_ms)
        after = {"method": method.value, "session": row.id}
        await self.note(session, row, action, client, actor=f"user:{user.id}", target=f"user:{user.id}", after=after)
        return issued

    async def refresh(self, database: Database, token: RefreshToken, client: Client) -> IssuedTokens:
        """Replace a refresh token, and return a new access token with it.

        A token that was replaced less than GRACE_MS ago gets the same successor again, as long as that is unused. Any
        other token that was replaced revokes its session. Raises Unauthenticated, DatabaseUnavailable.
        """
        async with database.session() as session:
            issued = await self._rotate(session, token, client)
            if issued is None:
                issued = await self._repeat_or_revoke(session, token, client)
        if issued is None:
            raise Unauthenticated
        return issued

    def recognise(self, text: str) -> RefreshToken:
        """The token, which was made here, but may be outdated. It needs no query. Raises Unauthenticated."""
        token = self._refresh_tokens.recognise(text)
        if token is None:
            raise Unauthenticated
        return token

    async def list_live(self, session: AsyncSession, user: User) -> list[Session]:
        """The sessions of a user that can still be refreshed, the newest first."""
        query = select(Session).where(*self._are_live(user)).order_by(col(Session.created_ms).desc(), col(Session.id))
        return list((await session.exec(query)).all())

    async def revoke(self, session: AsyncSession, user: User, session_id: str) -> Session:
        """End a session of a user: its tokens are refused from the next request on. Raises NotFound if it has ended."""
        row = (await session.exec(select(Session).where(Session.id == session_id, *self._are_live(user)))).first()
        if row is None or not await self.end(session, row):
            raise NotFound
        return row

    async def revoke_all(self, session: AsyncSession, user: User) -> int:
        """End the sessions of a user. Returns their number."""
        return await accounts.revoke_sessions(session, user, self._clock.now_ms())

    async def end(self, session: AsyncSession, row: Session) -> bool:
        """Revoke a session. False if it is revoked already."""
        is_it = (col(Session.id) == row.id, col(Session.revoked_ms).is_(None))
        ended = await session.exec(update(Session).where(*is_it).values(revoked_ms=self._clock.now_ms()))
        return ended.rowcount == 1

    async def log_out(
        self, session: AsyncSession, token: RefreshToken, client: Client, *, everywhere: bool = False
    ) -> None:
        """End the session of a refresh token; or all of its user, if the token is not outdated. Does nothing if the
        session has ended.
        """
        found = await self._read(session, token)
        if found is not None and self._is_live(*found):
            row, user, _ = found
            is_valid = self._is_hash_of(row, token) or self._may_repeat(row, token)
            await self.end_one_or_all(session, row, user, client, everywhere=everywhere and is_valid)

    async def end_one_or_all(
        self, session: AsyncSession, row: Session, user: User, client: Client, *, everywhere: bool
    ) -> None:
        """Log a user out of one session, or of all."""
        is_changed = await self.revoke_all(session, user) if everywhere else await self.end(session, row)
        if is_changed:
            await self.note(session, row, "logout", client, actor=f"user:{user.id}", after={"all": everywhere})

    async def method_of(self, session: AsyncSession, caller: Principal) -> Method:
        """How the caller has logged in."""
        row = await session.get(Session, caller.session) if caller.session is not None else None
        return Method(row.method) if row is not None else Method.PASSWORD

    async def note(
        self,
        session: AsyncSession,
        row: Session,
        action: str,
        client: Client,
        *,
        actor: str,
        target: str | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a line on a session to the audit log of its tenant."""
        act = Act(
            row.tenant_id,
            actor,
            action,
            target or f"session:{row.id}",
            after=after,
            address=client.address,
            correlation_id=client.correlation_id,
        )
        await self._audit_log.add(session, act, self._clock.now_ms())

    async def _rotate(self, session: AsyncSession, token: RefreshToken, client: Client) -> IssuedTokens | None:
        """Replace the newest token of a live session. None if it is not the newest, or another request was faster."""
        found = await self._read(session, token)
        if found is None or not self._is_live(*found) or not self._is_hash_of(found[0], token):
            return None
        row = found[0]
        successor = self._refresh_tokens.successor(token)
        issued = self._issue(row, successor)
        changes = {
            "generation": successor.generation,
            "token_hash": successor.hash,
            "rotated_ms": self._clock.now_ms(),
            "address": client.address[:MAX_ADDRESS_LENGTH],
            "user_agent": client.user_agent[:MAX_USER_AGENT_LENGTH],
        }
        return issued if await self._change(session, row, issued, changes) else None

    async def _repeat_or_revoke(
        self, session: AsyncSession, token: RefreshToken, client: Client
    ) -> IssuedTokens | None:
        session.expire_all()
        found = await self._read(session, token)
        if found is None or not self._is_live(*found):
            return None
        row, user, _ = found
        if self._may_repeat(row, token):
            return await self._issue_again(session, row, token)
        if token.generation < row.generation and await self.end(session, row):
            await self.note(session, row, "session.reuse", client, actor=f"user:{user.id}")
        return None

    async def _issue_again(self, session: AsyncSession, row: Session, token: RefreshToken) -> IssuedTokens | None:
        """The response to the first use of the token once more, unless the session was revoked or refreshed since."""
        issued = self._issue(row, self._refresh_tokens.successor(token))
        return issued if await self._change(session, row, issued, {}) else None

    async def _change(
        self, session: AsyncSession, row: Session, issued: IssuedTokens, changes: Mapping[str, Any]
    ) -> bool:
        """Write changes and the end of the new access token. False if the session was revoked or refreshed since."""
        is_unchanged = (
            col(Session.id) == row.id,
            col(Session.generation) == row.generation,
            col(Session.revoked_ms).is_(None),
        )
        ends_ms = max(row.access_ends_ms, issued.access_ends_ms)
        changed = await session.exec(
            update(Session).where(*is_unchanged).values(access_ends_ms=ends_ms, **changes),
            execution_options={"synchronize_session": False},
        )
        return changed.rowcount == 1

    async def _read(self, session: AsyncSession, token: RefreshToken) -> tuple[Session, User, Tenant] | None:
        query = (
            select(Session, User, Tenant)
            .join(User, col(User.id) == Session.user_id)
            .join(Tenant, col(Tenant.id) == User.tenant_id)
            .where(Session.id == token.session_id)
        )
        return (await session.exec(query)).first()

    def _is_live(self, row: Session, user: User, tenant: Tenant) -> bool:
        """Whether neither the session has ended, nor what was true of its user at the login."""
        is_same_user = (row.token_version, row.role, row.tenant_id) == (user.token_version, user.role, user.tenant_id)
        is_open = row.revoked_ms is None and self._clock.now_ms() < row.expires_ms
        return is_open and is_same_user and user.disabled_at is None and tenant.disabled_at is None

    def _are_live(self, user: User) -> tuple[Any, ...]:
        """The conditions on the live sessions of a user."""
        return (
            col(Session.user_id) == user.id,
            col(Session.revoked_ms).is_(None),
            col(Session.expires_ms) > self._clock.now_ms(),
            col(Session.token_version) == user.token_version,
            col(Session.role) == user.role,
        )

    def _is_hash_of(self, row: Session, token: RefreshToken) -> bool:
        return row.generation == token.generation and hmac.compare_digest(row.token_hash, token.hash)

    def _may_repeat(self, row: Session, token: RefreshToken) -> bool:
        """Whether the token was replaced by the newest one, a moment ago."""
        is_recent = self._clock.now_ms() - row.rotated_ms <= GRACE_MS
        return is_recent and self._is_hash_of(row, self._refresh_tokens.successor(token))

    async def _end_surplus(self, session: AsyncSession, user: User, now_ms: int) -> None:
        """Revoke the oldest sessions of a user beyond MAX_SESSIONS_PER_USER. The user's row is locked."""
        surplus = (await self.list_live(session, user))[MAX_SESSIONS_PER_USER:]
        if surplus:
            ids = [row.id for row in surplus]
            await session.exec(update(Session).where(col(Session.id).in_(ids)).values(revoked_ms=now_ms))

    def _issue(self, row: Session, token: RefreshToken) -> IssuedTokens:
        """Issue an access token, which ends with the session at the latest."""
        caller = Principal(
            row.user_id,
            row.tenant_id,
            Role(row.role),
            row.token_version,
            session=row.id,
            authenticated_ms=row.authenticated_ms,
        )
        access_token, ends_s = self._tokens.issue_until(caller, row.expires_ms // 1000)
        lifetime_s = max(0, ends_s - self._clock.now_ms() // 1000)
        return IssuedTokens(row.id, access_token, token.text, lifetime_s, ends_s * 1000, row.expires_ms)
