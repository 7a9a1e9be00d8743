"""What endpoints ask for in their signatures. The signature is the access rule."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, OAuth2PasswordBearer
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.api.bearer import access_token
from tollkeeper.conversations import Conversations
from tollkeeper.db import Database
from tollkeeper.gateway.path import Gateway
from tollkeeper.identity.authenticator import Authenticator
from tollkeeper.identity.models import Tenant, User
from tollkeeper.identity.passwords import Passwords
from tollkeeper.identity.tokens import Tokens
from tollkeeper.principal import Access, Principal
from tollkeeper.quota.ledger import Ledger
from tollkeeper.settings import Settings
from tollkeeper.throttle import Throttle


@dataclass(frozen=True, slots=True)
class Services:
    """The concrete parts of a running server, as `bootstrap` put them together."""

    settings: Settings
    database: Database
    passwords: Passwords
    tokens: Tokens
    credentials: Authenticator
    throttle: Throttle
    ledger: Ledger
    gateway: Gateway
    conversations: Conversations


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The caller, with the rows behind the principal, checked in this request's transaction."""

    principal: Principal
    user: User
    tenant: Tenant


bearer = OAuth2PasswordBearer(tokenUrl="auth/login", auto_error=False)
api_key = HTTPBearer(scheme_name="APIKey", description="An API key, in place of a login's token.", auto_error=False)


def get_services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


async def get_session(services: Annotated[Services, Depends(get_services)]) -> AsyncIterator[AsyncSession]:
    async with services.database.session() as session:
        yield session


Parts = Annotated[Services, Depends(get_services)]
Session = Annotated[AsyncSession, Depends(get_session, scope="function")]


def signed_in(access: Access) -> Callable[..., Awaitable[SignedIn]]:
    """A dependency: the caller, whose credential opens this."""

    async def get_caller(
        request: Request, services: Parts, session: Session, _documented: Annotated[str | None, Depends(bearer)]
    ) -> SignedIn:
        principal = await services.credentials.verify(access_token(request.scope), access)
        user, tenant = await services.credentials.current(session, principal)
        return SignedIn(principal, user, tenant)

    return get_caller


def with_api_key(access: Access) -> Callable[..., Awaitable[SignedIn]]:
    """The same, for what API keys open too."""

    async def get_caller(
        caller: Annotated[SignedIn, Depends(signed_in(access))],
        _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(api_key)],
    ) -> SignedIn:
        return caller

    return get_caller


Caller = Annotated[SignedIn, Depends(with_api_key(Access.AI))]
"""Who asks models."""
Reader = Annotated[SignedIn, Depends(with_api_key(Access.ME))]
"""Who looks at their own account."""
KeyOwner = Annotated[SignedIn, Depends(signed_in(Access.KEYS))]
"""Who has logged in."""
