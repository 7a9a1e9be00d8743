"""What callers send to say who they are: the access token of a login, or an API key."""

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.errors import Unauthenticated
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.keys import ApiKeys
from tollkeeper.identity.models import Tenant, User
from tollkeeper.identity.tokens import Tokens
from tollkeeper.principal import Access, Principal


class Authenticator:
    """The one way from a credential to a principal."""

    def __init__(self, tokens: Tokens, api_keys: ApiKeys, clock: Clock) -> None:
        self._tokens = tokens
        self._api_keys = api_keys
        self._clock = clock

    async def verify(self, credential: str, access: Access) -> Principal:
        """Who it speaks for, if it opens this. Raises Unauthenticated, Forbidden, LedgerUnavailable, Overloaded."""
        if credential.startswith(keys.PREFIX):
            return await self._api_keys.verify(credential, access)
        return self._tokens.verify(credential)

    async def current(self, session: AsyncSession, caller: Principal) -> tuple[User, Tenant]:
        """The rows behind a principal. Raises Unauthenticated when user, tenant or credential are no longer good."""
        try:
            return await accounts.current(session, caller, self._clock.now_ms())
        except Unauthenticated:
            self.forget(caller)
            raise

    def forget(self, caller: Principal | None) -> None:
        """Whoever this was, if anyone, was found to be good no longer."""
        if caller is not None and caller.api_key is not None:
            self._api_keys.forget(caller)
