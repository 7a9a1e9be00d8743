"""The dependencies of endpoints, as type aliases for their signatures. The signature is the access rule."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, OAuth2PasswordBearer
from prometheus_client import CollectorRegistry
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.administration.verifications import Verifications
from tollkeeper.api.bearer import authenticate
from tollkeeper.audit_log.log import AuditLog
from tollkeeper.clock import Clock
from tollkeeper.conversations import Conversations
from tollkeeper.db import Database, confine
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.gateway.call_events import CallEvents
from tollkeeper.gateway.path import Gateway
from tollkeeper.identity.authenticator import Authenticator
from tollkeeper.identity.failed_logins import FailedLogins
from tollkeeper.identity.logins import Logins
from tollkeeper.identity.models import Tenant, User
from tollkeeper.identity.oidc.client import OpenIdClient
from tollkeeper.identity.passwords import Passwords
from tollkeeper.identity.sessions import Sessions
from tollkeeper.identity.tokens import Tokens
from tollkeeper.identity.totp import SecondFactors
from tollkeeper.principal import Access, Principal, Role
from tollkeeper.quota.ledger import Ledger
from tollkeeper.settings import Settings
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope
from tollkeeper.throttle import Throttle


@dataclass(frozen=True, slots=True)
class Services:
    """The services of a running server, as `bootstrap` composes them."""

    settings: Settings
    database: Database
    passwords: Passwords
    tokens: Tokens
    authenticator: Authenticator
    logins: Logins
    sessions: Sessions
    second_factors: SecondFactors
    failed_logins: FailedLogins
    throttle: Throttle
    ledger: Ledger
    gateway: Gateway
    call_events: CallEvents
    conversations: Conversations
    data_keys: DataKeys
    audit_log: AuditLog
    openid: OpenIdClient
    verifications: Verifications
    clock: Clock
    metrics: CollectorRegistry


@dataclass(frozen=True, slots=True)
class AuthenticatedUser:
    """The caller: the principal, and its rows as read in this request's transaction."""

    principal: Principal
    user: User
    tenant: Tenant


login_scheme = OAuth2PasswordBearer(tokenUrl="auth/login", auto_error=False)
api_key_scheme = HTTPBearer(
    scheme_name="APIKey", description="An API key, in place of a login's token.", auto_error=False
)


def get_services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


async def get_session(services: Annotated[Services, Depends(get_services)]) -> AsyncIterator[AsyncSession]:
    async with services.database.session() as session:
        yield session


ServicesDep = Annotated[Services, Depends(get_services)]
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


def scope_of(principal: Principal, access: Access) -> TenantScope:
    """The tenants that a request concerns: all, if an operator administers; else the caller's own."""
    if access is Access.ADMIN and principal.role is Role.OPERATOR:
        return ALL_TENANTS
    return TenantScope(principal.tenant_id)


def require_access(access: Access) -> Callable[..., Awaitable[AuthenticatedUser]]:
    """A dependency that authenticates the caller, and counts the request against the user's limit.

    It raises Unauthenticated; Forbidden without this access; RateLimited.
    """

    async def get_caller(
        request: Request,
        services: ServicesDep,
        session: SessionDep,
        _documented: Annotated[str | None, Depends(login_scheme)],
    ) -> AuthenticatedUser:
        principal = await authenticate(services.authenticator, services.throttle, request.scope, access)
        services.throttle.check_read(principal)
        confine(session, scope_of(principal, access))
        user, tenant = await services.authenticator.load_account(session, principal)
        return AuthenticatedUser(principal, user, tenant)

    return get_caller


def require_access_by_login_or_key(access: Access) -> Callable[..., Awaitable[AuthenticatedUser]]:
    """As `require_access`, for an access that API keys can have: the OpenAPI document lists them, too."""

    async def get_caller(
        caller: Annotated[AuthenticatedUser, Depends(require_access(access))],
        _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(api_key_scheme)],
    ) -> AuthenticatedUser:
        return caller

    return get_caller


def require_surface(surface: str) -> Callable[..., Awaitable[AuthenticatedUser]]:
    """A dependency that authenticates a caller of this surface. It raises as `require_access` does; Forbidden if the
    caller's API key does not allow the surface.
    """

    async def get_caller(
        caller: Annotated[AuthenticatedUser, Depends(require_access_by_login_or_key(Access.AI))],
    ) -> AuthenticatedUser:
        caller.principal.limits.require_surface(surface)
        return caller

    return get_caller


Caller = Annotated[AuthenticatedUser, Depends(require_access_by_login_or_key(Access.AI))]
"""A user who may call models."""
ConversationOwner = Annotated[AuthenticatedUser, Depends(require_surface("sessions"))]
"""A user who may read and delete their own conversations."""
AccountReader = Annotated[AuthenticatedUser, Depends(require_access_by_login_or_key(Access.ME))]
"""A user who may read their own account."""
KeyOwner = Annotated[AuthenticatedUser, Depends(require_access(Access.KEYS))]
"""A user who has logged in. API keys cannot manage API keys, sessions and second factors."""
