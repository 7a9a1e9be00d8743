"""The dependencies of endpoints, as type aliases for their signatures. The signature is the access rule."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, OAuth2PasswordBearer
from prometheus_client.registry import Collector
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.types import Scope

from tollkeeper.administration.doctor import Doctor
from tollkeeper.administration.verifications import Verifications
from tollkeeper.api.bearer import authenticate
from tollkeeper.api.body_budget import BodyBudget
from tollkeeper.api.limit_headers import limits_of, note_limits
from tollkeeper.audit_log.log import AuditLog
from tollkeeper.batches.service import Batches
from tollkeeper.clock import Clock
from tollkeeper.conversations import Conversations
from tollkeeper.database.engine import Database, confine
from tollkeeper.documents.retriever import Retriever
from tollkeeper.documents.service import Documents
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.gateway.call_record import CallEvents
from tollkeeper.gateway.event_tail import EventTail
from tollkeeper.gateway.path import Gateway
from tollkeeper.identity.authenticator import Authenticator
from tollkeeper.identity.failed_logins import FailedLogins
from tollkeeper.identity.logins import Logins
from tollkeeper.identity.models import Tenant, User
from tollkeeper.identity.oidc.client import OpenIdClient
from tollkeeper.identity.passwords import Passwords
from tollkeeper.identity.sessions import Sessions
from tollkeeper.identity.tag_values import TagValues
from tollkeeper.identity.tokens import Tokens
from tollkeeper.identity.totp import SecondFactors
from tollkeeper.jobs.service import Jobs
from tollkeeper.outbound.client import OutboundClient
from tollkeeper.principal import Access, Principal, Role
from tollkeeper.quota.ledger import Ledger
from tollkeeper.rate_limits.request_rate import RequestRate
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.settings import Settings
from tollkeeper.telemetry.health import Health
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope


@dataclass(frozen=True, slots=True)
class Services:
    """The services of a running server, as `bootstrap` composes them."""

    settings: Settings
    database: Database
    passwords: Passwords
    tokens: Tokens
    authenticator: Authenticator
    tag_values: TagValues
    logins: Logins
    sessions: Sessions
    second_factors: SecondFactors
    failed_logins: FailedLogins
    throttle: Throttle
    ledger: Ledger
    gateway: Gateway
    call_events: CallEvents
    event_tail: EventTail
    conversations: Conversations
    data_keys: DataKeys
    audit_log: AuditLog
    openid: OpenIdClient
    verifications: Verifications
    doctor: Doctor
    clock: Clock
    metrics: Collector
    health: Health
    jobs: Jobs
    webhook_client: OutboundClient
    documents: Documents
    retriever: Retriever
    uploads: BodyBudget
    batches: Batches


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


async def count_call(services: Services, scope: Scope, caller: Principal) -> RequestRate | None:
    """Count a call of a model against the caller's limits. Raises RateLimited."""
    rate = await services.throttle.check(caller)
    note_limits(scope, limits_of((), rate, services.clock.now_ms()))
    return rate


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
        rate = await services.throttle.check_read(principal)
        note_limits(request.scope, limits_of((), rate, services.clock.now_ms()))
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
JobOwner = Annotated[AuthenticatedUser, Depends(require_surface("jobs"))]
"""A user who may submit, read and cancel their own jobs."""
DocumentReader = Annotated[AuthenticatedUser, Depends(require_surface("documents"))]
"""A user who may upload documents, and read and delete some."""
SearchCaller = Annotated[AuthenticatedUser, Depends(require_surface("search"))]
"""A user who may search documents."""
BatchOwner = Annotated[AuthenticatedUser, Depends(require_surface("batches"))]
"""A user who may submit, read and cancel their own batches, and the files of these."""
AccountReader = Annotated[AuthenticatedUser, Depends(require_access_by_login_or_key(Access.ME))]
"""A user who may read their own account."""
KeyOwner = Annotated[AuthenticatedUser, Depends(require_access(Access.KEYS))]
"""A user who has logged in. API keys cannot manage API keys, sessions and second factors."""
