"""Single sign-on: the way to a tenant's OpenID provider and back (OpenID Connect Core 1.0, 3.1)."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.administration.default_quotas import give_default_quotas
from tollkeeper.administration.sign_on import SignOn, admit
from tollkeeper.api.auth_tokens import TokenResponse, client_of, needs_secure_cookie, require_own_page, token_response
from tollkeeper.api.bearer import client_address
from tollkeeper.api.dependencies import Services, ServicesDep
from tollkeeper.errors import InvalidRequest, NotFound, SignOnRefused
from tollkeeper.identity import providers
from tollkeeper.identity.domains import MAX_DOMAIN_LENGTH
from tollkeeper.identity.models import IdentityProvider
from tollkeeper.identity.oidc import attempts
from tollkeeper.identity.oidc.attempts import Attempt
from tollkeeper.identity.oidc.client import Person
from tollkeeper.identity.sessions import Client, IssuedTokens, Method
from tollkeeper.server.limits import source_of
from tollkeeper.telemetry.correlation import correlation_id

router = APIRouter(prefix="/auth/oidc", tags=["auth"])

COOKIE = "tollkeeper_sign_on"
COOKIE_PATH = "/auth/oidc"
CONSOLE = "../../../console"
"""The console, as a browser at the callback finds it, also behind a prefix."""
MAX_CODE_LENGTH = 4_096
SINGLE_PARAMETERS = ("code", "state", "iss", "error")

ProviderName = Annotated[str, Path(max_length=40, examples=["acme"])]

START_RESPONSES: dict[int | str, dict[str, Any]] = {
    403: {"description": "A page of another site has asked for the cookie"},
    302: {
        "description": "Go on to the identity provider",
        "headers": {
            "Location": {"schema": {"type": "string"}},
            "Set-Cookie": {"schema": {"type": "string"}, "description": "The attempt, encrypted, for ten minutes"},
        },
    },
    429: {"description": "Too many requests"},
    502: {"description": "The identity provider cannot be reached"},
    503: {"description": "The database is unavailable"},
}
CALLBACK_RESPONSES: dict[int | str, dict[str, Any]] = {
    303: {
        "description": "Of a login that was begun with `console`: go on to the console, also if the login was refused",
        "headers": {"Location": {"schema": {"type": "string"}}, "Set-Cookie": {"schema": {"type": "string"}}},
    },
    401: {"description": "The login is not valid, or does not admit the user; `detail` says why"},
    429: {"description": "Too many requests"},
    502: {"description": "The identity provider cannot be reached"},
    503: {"description": "The database is unavailable"},
}


class StartParameters(BaseModel):
    """`fresh`: the person has to prove anew who they are, even if they are logged in at the provider. `cookie`: the
    refresh token is put into a cookie, for the console. `console`: also, the browser goes there at the end.
    """

    fresh: Annotated[bool, Query(examples=[False])] = False
    cookie: Annotated[bool, Query(examples=[False])] = False
    console: Annotated[bool, Query(examples=[False])] = False


class SignOnResponse(BaseModel):
    """The name of the identity provider with which people of a domain log in: that of `/auth/oidc/{name}/start`."""

    provider: str | None


class CallbackParameters(BaseModel):
    """The provider's answer (RFC 6749, 4.1.2; RFC 9207). Parameters with other names have no effect."""

    model_config = ConfigDict(extra="ignore")

    state: Annotated[str, Query(max_length=100, examples=["af0ifjsldkj"])] = ""
    code: Annotated[str, Query(max_length=MAX_CODE_LENGTH, examples=["SplxlOBeZQQYbYS6WxSbIA"])] = ""
    iss: Annotated[str | None, Query(max_length=500, examples=["https://login.example.com"])] = None
    error: Annotated[str | None, Query(max_length=100, examples=["access_denied"])] = None


@router.get("", responses={429: {"description": "Too many requests"}}, summary="Whether a domain has single sign-on")
async def find_sign_on(
    request: Request,
    services: ServicesDep,
    domain: Annotated[str, Query(min_length=1, max_length=MAX_DOMAIN_LENGTH, examples=["example.com"])],
) -> SignOnResponse:
    """For the domain of an e-mail address, as sign-in pages need it. Says nothing of the address, nor of its tenant."""
    await services.throttle.check_sign_on(client_address(request.scope))
    async with services.database.session() as session:
        provider = await providers.find_enabled_provider_of(session, domain)
    return SignOnResponse(provider=None if provider is None else provider.name)


@router.get(
    "/{name}/start",
    status_code=302,
    response_class=RedirectResponse,
    responses=START_RESPONSES,
    summary="Log in by an identity provider",
)
async def start_single_sign_on(
    name: ProviderName, request: Request, services: ServicesDep, parameters: Annotated[StartParameters, Query()]
) -> Response:
    """Open this in a browser. The provider sends the browser back to `callback`, whose response has the token."""
    await services.throttle.check_sign_on(client_address(request.scope))
    as_cookie = parameters.cookie or parameters.console
    if as_cookie:
        require_own_page(request, services.settings)
    async with services.database.session() as session:
        provider = await providers.find_enabled_provider(session, name)
    registration = providers.registration_of(services.data_keys, provider)
    attempt = attempts.begin(
        name,
        provider.issuer,
        provider.client_id,
        services.clock.now_ms(),
        as_cookie=as_cookie,
        is_fresh=parameters.fresh,
        to_console=parameters.console,
    )
    url = await services.openid.authorization_url(registration, attempt)
    response = Response(status_code=302, headers={"Location": url})
    response.set_cookie(
        COOKIE,
        attempts.seal(services.data_keys, attempt),
        max_age=attempts.LIFETIME_S,
        path=COOKIE_PATH,
        secure=needs_secure_cookie(request, services.settings),
        httponly=True,
        samesite="lax",
    )
    return response


@router.get(
    "/{name}/callback",
    response_model=TokenResponse,
    responses=CALLBACK_RESPONSES,
    response_model_exclude_none=True,
    summary="The identity provider's answer",
)
async def finish_single_sign_on(
    name: ProviderName,
    request: Request,
    response: Response,
    services: ServicesDep,
    parameters: Annotated[CallbackParameters, Query()],
) -> Any:
    """Returns the same as `POST /auth/login`. The URL and the cookie are of use only once."""
    address = client_address(request.scope)
    await services.throttle.check_sign_on(address)
    attempt = None
    try:
        attempt = _open_attempt(name, request, services, parameters)
        await services.throttle.check_failures(address)
        person = await _identify(services, attempt, parameters)
        issued = await _open_session(services, attempt, person, client_of(request))
    except SignOnRefused:
        services.failed_logins.count(source_of(address))
        await services.throttle.count_failure(address)
        if attempt is not None and attempt.to_console:
            return _to_console(f"?refused={correlation_id.get()}")  # the page shows under which id the reason is logged
        raise
    answer = _to_console() if attempt.to_console else response
    answer.delete_cookie(COOKIE, path=COOKIE_PATH)
    tokens = token_response(request, answer, services, issued, as_cookie=attempt.as_cookie)
    return answer if attempt.to_console else tokens


def _to_console(query: str = "") -> Response:
    return Response(status_code=303, headers={"Location": CONSOLE + query})


def _open_attempt(name: str, request: Request, services: Services, parameters: CallbackParameters) -> Attempt:
    """The attempt that the answer belongs to. Costs no more than the decryption of the cookie.

    Raises SignOnRefused; InvalidRequest for a parameter that is sent twice (RFC 6749, 3.1).
    """
    sent = [key for key, _ in request.query_params.multi_items()]
    if any(sent.count(one) > 1 for one in SINGLE_PARAMETERS):
        raise InvalidRequest("A parameter is sent twice.")
    attempt = attempts.unseal(services.data_keys, request.cookies.get(COOKIE), services.clock.now_ms())
    if attempt.provider != name or not attempt.has_state(parameters.state):
        raise SignOnRefused("The answer is not for the single sign-on that this browser has started. Start again.")
    return attempt


async def _identify(services: Services, attempt: Attempt, parameters: CallbackParameters) -> Person:
    """The person whom the provider has authenticated. Raises SignOnRefused, OutboundError, Overloaded.

    No transaction is open while the provider is asked.
    """
    async with services.database.session() as session:
        provider = await _provider_of(session, attempt)
        await attempts.use_once(session, attempt)
    registration = providers.registration_of(services.data_keys, provider)
    await services.openid.check_issuer(registration, parameters.iss)
    if parameters.error is not None or not parameters.code:
        raise SignOnRefused("The identity provider did not log you in. Start again.")
    return await services.openid.redeem(registration, attempt, parameters.code)


async def _open_session(services: Services, attempt: Attempt, person: Person, client: Client) -> IssuedTokens:
    """Find or create the user, and log them in. Raises SignOnRefused."""
    now_ms = services.clock.now_ms()
    async with services.database.session() as session:
        sign_on = SignOn(session, services.audit_log, client, now_ms)
        user = await admit(sign_on, await _provider_of(session, attempt), person)
    assert user.id is not None
    await give_default_quotas(services.database, services.ledger, [user.id], actor=f"user:{user.id}")
    authenticated_ms = _authenticated_ms(attempt, person, now_ms)
    async with services.database.session() as session:
        return await services.sessions.open(session, user, Method.OIDC, client, authenticated_ms=authenticated_ms)


async def _provider_of(session: AsyncSession, attempt: Attempt) -> IdentityProvider:
    """The provider with which the attempt was begun. Raises SignOnRefused if it was changed or disabled meanwhile."""
    try:
        provider = await providers.find_enabled_provider(session, attempt.provider)
    except NotFound:
        raise SignOnRefused("This identity provider is not in use any more.") from None
    if (provider.issuer, provider.client_id) != (attempt.issuer, attempt.client_id):
        raise SignOnRefused("The identity provider was changed meanwhile. Start again.")
    return provider


def _authenticated_ms(attempt: Attempt, person: Person, now_ms: int) -> int:
    """When the person proved who they are, as the provider says. If it does not: now, if they had to prove it anew;
    else at a time unknown, which is not fresh, since the provider may have asked them nothing.
    """
    if person.authenticated_s is None:
        return now_ms if attempt.is_fresh else 0
    return max(0, min(now_ms, int(person.authenticated_s * 1000)))
