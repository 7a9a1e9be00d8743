"""Who may see the reasons behind a state that everybody may see: operators, and what collects the metrics."""

import hmac
from typing import Annotated, Any

from fastapi import Depends, Request

from tollkeeper.api.bearer import authenticate
from tollkeeper.api.dependencies import Services, ServicesDep
from tollkeeper.errors import TollkeeperError
from tollkeeper.principal import Access, Principal, Role
from tollkeeper.settings import Settings

OPTIONAL_LOGIN: dict[str, Any] = {"security": [{}, {"OAuth2PasswordBearer": []}]}
"""The security of an operation that shows operators more, as OpenAPI says it."""


def has_metrics_token(request: Request, settings: Settings) -> bool:
    """Whether the request has TOLLKEEPER_METRICS_TOKEN as its bearer token. False if that is not set."""
    if settings.metrics_token is None:
        return False
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    expected = settings.metrics_token.get_secret_value().encode()
    return scheme.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), expected)


async def sees_reasons(request: Request, services: ServicesDep) -> bool:
    """Whether the caller is an operator, or has the token of the metrics.

    A wrong credential makes a stranger, not an error: what watches a server must not fail because its token has
    expired. While the database does not respond, the signature of an operator's token is enough: an outage is when its
    reasons are needed.
    """
    if has_metrics_token(request, services.settings):
        return True
    if "authorization" not in request.headers:
        return False
    try:
        principal = await authenticate(services.authenticator, services.throttle, request.scope, Access.ADMIN)
        if principal.role is not Role.OPERATOR:
            return False
        return not await services.database.is_ready() or await _is_valid_operator(services, principal)
    except TollkeeperError:
        return False


async def _is_valid_operator(services: Services, principal: Principal) -> bool:
    """Whether the account is still valid, and has the second factor that operators need. Raises TollkeeperError."""
    async with services.database.session() as session:
        await services.authenticator.load_account(session, principal)
        if not services.settings.require_operator_totp:
            return True
        return await services.second_factors.is_confirmed(session, principal.user_id)


SeesReasons = Annotated[bool, Depends(sees_reasons)]
