"""Authentication: from the credential of a request (an access token or an API key) to a principal."""

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.errors import Unauthenticated
from tollkeeper.identity import accounts, keys
from tollkeeper.identity.keys import ApiKeys
from tollkeeper.identity.models import Tenant, User
from tollkeeper.identity.tokens import Tokens
from tollkeeper.principal import Access, Principal


class Authenticator:
    """Verifies credentials of both kinds. No other code makes a principal of a request."""

    def __init__(self, tokens: Tokens, api_keys: ApiKeys, clock: Clock, *, step_up_minutes: int) -> None:
        self._tokens = tokens
        self._api_keys = api_keys
        self._clock = clock
        self._step_up_ms = step_up_minutes * 60_000

    async def verify(self, credential: str, access: Access, address: str) -> Principal:
        """Returns the principal of a credential that allows `access` to the client at this address.

        Raises Unauthenticated, Forbidden, DatabaseUnavailable, Overloaded.
        """
        if credential.startswith(keys.PREFIX):
            return await self._api_keys.verify(credential, access, address)
        return self._tokens.verify(credential)

    def costs_a_lookup(self, credential: str) -> bool:
        """Whether only a query can tell that the credential is wrong."""
        return credential.startswith(keys.PREFIX) and self._api_keys.costs_a_lookup(credential)

    def is_fresh(self, caller: Principal) -> bool:
        """Whether the caller has logged in a moment ago, so that they may create what gives access."""
        return self._clock.now_ms() - caller.authenticated_ms <= self._step_up_ms

    async def load_account(self, session: AsyncSession, caller: Principal) -> tuple[User, Tenant]:
        """Returns the principal's rows. Raises Unauthenticated when user, tenant or credential is no longer valid."""
        try:
            return await accounts.load_account(session, caller, self._clock.now_ms())
        except Unauthenticated:
            self.forget(caller)
            raise

    def forget(self, caller: Principal | None) -> None:
        """Drop the cached API key of a caller whom the database has refused. Does nothing for other callers."""
        if caller is not None and caller.api_key is not None:
            self._api_keys.forget(caller)
