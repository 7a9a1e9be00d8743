"""Identity on a database of the test: sessions and second factors with a clock that the test moves."""

from dataclasses import dataclass

from pydantic import SecretStr

from support.factories import FakeClock, make_principal
from tollkeeper.audit_log.log import AuditLog
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import Unauthenticated
from tollkeeper.identity import accounts
from tollkeeper.identity.models import User
from tollkeeper.identity.sessions import Client, IssuedTokens, Method, Sessions
from tollkeeper.identity.tokens import Tokens
from tollkeeper.identity.totp import SecondFactors
from tollkeeper.principal import Principal
from tollkeeper.tenant_scope import TenantScope

SECRET = "a-secret-for-tests-0123456789abcdef"
PERIOD_MS = 30_000
BROWSER = Client("192.0.2.7", "a browser", "correlation")


@dataclass(frozen=True, slots=True)
class IdentityWorld:
    """One user, and the services that log them in."""

    database: Database
    clock: FakeClock
    keys: DataKeys
    tokens: Tokens
    audit_log: AuditLog
    sessions: Sessions
    second_factors: SecondFactors
    caller: Principal

    async def user(self) -> User:
        async with self.database.session() as session:
            return await session.get_one(User, self.caller.user_id)

    async def open(self, method: Method = Method.PASSWORD) -> IssuedTokens:
        """A login of the user."""
        async with self.database.session() as session:
            user = await session.get_one(User, self.caller.user_id)
            return await self.sessions.open(session, user, method, BROWSER)

    async def refresh(self, text: str) -> IssuedTokens:
        return await self.sessions.refresh(self.database, self.sessions.recognise(text), BROWSER)

    async def is_accepted(self, access_token: str) -> bool:
        """Whether an access token still loads the account."""
        try:
            caller = self.tokens.verify(access_token)
            async with self.database.session() as session:
                await accounts.load_account(session, caller, self.clock.now_ms())
        except Unauthenticated:
            return False
        return True

    async def audited(self) -> list[str]:
        """The actions in the audit log, the oldest first."""
        async with self.database.session() as session:
            lines = await self.audit_log.page(session, TenantScope(self.caller.tenant_id), limit=100)
        return [line.action for line in reversed(lines)]


async def make_identity_world(database: Database, *, hours: int = 720) -> IdentityWorld:
    clock = FakeClock(SystemClock().now_ms() // PERIOD_MS * PERIOD_MS)  # jose compares expiries to the real time
    keys = DataKeys(SecretStr("a-data-key-for-tests-0123456789abcdef"))
    await keys.load(database, clock)
    tokens = Tokens(SECRET, minutes=15, clock=clock)
    audit_log = AuditLog(keys)
    sessions = Sessions(tokens, keys, audit_log, clock, hours=hours)
    second_factors = SecondFactors(keys, clock)
    caller = await make_principal(database)
    return IdentityWorld(database, clock, keys, tokens, audit_log, sessions, second_factors, caller)
