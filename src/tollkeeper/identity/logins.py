"""Login: password, second factor, and the session that they open. And the change of the password."""

from sqlmodel import col, update

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.errors import InvalidCredentials, TotpRequired, Unauthenticated
from tollkeeper.identity import accounts
from tollkeeper.identity.models import User
from tollkeeper.identity.passwords import Passwords
from tollkeeper.identity.sessions import Client, IssuedTokens, Method, Sessions
from tollkeeper.identity.totp import Proof, SecondFactors
from tollkeeper.principal import Principal
from tollkeeper.tenant_scope import TenantScope

_METHODS = {None: Method.PASSWORD, Proof.CODE: Method.TOTP, Proof.RECOVERY_CODE: Method.RECOVERY}


class Logins:
    """Logs users in with their passwords."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        second_factors: SecondFactors,
        sessions: Sessions,
        clock: Clock,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._second_factors = second_factors
        self._sessions = sessions
        self._clock = clock

    async def log_in(self, email: str, password: str, code: str | None, client: Client) -> IssuedTokens:
        """Open a session. `code` is of the second factor; a user without one needs none, and it has no effect.

        Raises what `accounts.login` raises; TotpRequired, InvalidTotpCode and RateLimited, only after the password has
        matched.
        """
        now_ms = self._clock.now_ms()
        caller = await accounts.login(self._database, self._passwords, email, password, now_ms)
        async with self._database.session() as session:
            user = await session.get_one(User, caller.user_id)
            needs_code = await self._second_factors.is_confirmed(session, caller.user_id)
        proof = None
        if needs_code:
            if code is None:
                raise TotpRequired
            proof = await self._second_factors.prove(self._database, user, code)
        async with self._database.session() as session:
            try:
                user, _ = await accounts.load_account(session, caller, now_ms)
            except Unauthenticated:  # disabled, or given another password, since it was checked
                raise InvalidCredentials from None
            return await self._sessions.open(session, user, _METHODS[proof], client)

    async def change_password(self, caller: Principal, current: str, new: str, client: Client) -> IssuedTokens:
        """Set a new password. All sessions end; the returned tokens are those of a new one, in place of the caller's.

        It is no fresh login for a user with a second factor, since the password alone does not prove who they are.
        Raises InvalidCredentials for the current password, InvalidRequest for the new one, Unauthenticated,
        RateLimited.
        """
        async with self._database.session(TenantScope(caller.tenant_id)) as session:
            user, _ = await accounts.load_account(session, caller, self._clock.now_ms())
        verified = await self._passwords.verify(current, user.password_hash or None)
        if not verified.matches:
            raise InvalidCredentials("The current password is wrong.")
        new_hash = await self._passwords.hash(new, tenant_id=caller.tenant_id)
        async with self._database.session(TenantScope(caller.tenant_id)) as session:
            lock = update(User).where(col(User.id) == caller.user_id).values(token_version=User.token_version)
            await session.exec(lock)  # no other transaction changes the password between the check and the change
            user, _ = await accounts.load_account(session, caller, self._clock.now_ms())
            method = await self._sessions.method_of(session, caller)
            has_second_factor = await self._second_factors.is_confirmed(session, caller.user_id)
            authenticated_ms = caller.authenticated_ms if has_second_factor else None
            await self._sessions.revoke_all(session, user)
            accounts.change_password(user, new_hash)
            await session.flush()
            return await self._sessions.open(
                session, user, method, client, action="password.change", authenticated_ms=authenticated_ms
            )
