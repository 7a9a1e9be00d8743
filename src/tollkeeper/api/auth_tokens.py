"""The tokens of a session in responses and requests: in the JSON body, or the refresh token in a cookie.

The cookie is for the console, so that no script of a page can read the refresh token. A request that uses it proves
with a header that a script of an allowed origin has sent it: a form of another site can set none (OWASP, CSRF
Prevention, "Custom Request Headers").
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request, Response
from pydantic import BaseModel, Field

from tollkeeper.api.bearer import client_address
from tollkeeper.api.dependencies import Services
from tollkeeper.errors import Forbidden
from tollkeeper.identity.sessions import Client, IssuedTokens
from tollkeeper.settings import Settings
from tollkeeper.telemetry.correlation import correlation_id

COOKIE = "tollkeeper_refresh"
COOKIE_PATH = "/auth"
CONSOLE_HEADER = "X-Tollkeeper-Console"


class TokenResponse(BaseModel):
    """A bearer token, valid for `expires_in` seconds, and the token that replaces it at `POST /auth/refresh`.

    With `"cookie": true`, the refresh token is in a cookie, and not here.
    """

    access_token: str = Field(repr=False)
    refresh_token: str | None = Field(default=None, repr=False)
    token_type: str = "bearer"  # noqa: S105 - the name of a scheme
    expires_in: int


def client_of(request: Request) -> Client:
    """Address and program of the client, for the list of sessions and the audit log."""
    user_agent = "".join(filter(str.isprintable, request.headers.get("user-agent", "")))
    return Client(client_address(request.scope), user_agent, correlation_id.get())


def token_response(
    request: Request, response: Response, services: Services, issued: IssuedTokens, *, as_cookie: bool
) -> TokenResponse:
    """The body of the response; with `as_cookie`, the refresh token is put into a cookie instead."""
    body = TokenResponse(access_token=issued.access_token, expires_in=issued.expires_in)
    if not as_cookie:
        body.refresh_token = issued.refresh_token
        return body
    response.set_cookie(
        COOKIE,
        issued.refresh_token,
        max_age=max(0, (issued.session_expires_ms - services.clock.now_ms()) // 1000),
        path=COOKIE_PATH,
        secure=needs_secure_cookie(request, services.settings),
        httponly=True,
        samesite="strict",
    )
    return body


def delete_cookie(request: Request, response: Response, settings: Settings) -> None:
    """Have the browser forget the refresh token."""
    secure = needs_secure_cookie(request, settings)
    response.delete_cookie(COOKIE, path=COOKIE_PATH, secure=secure, httponly=True, samesite="strict")


def cookie_of(request: Request, settings: Settings) -> str | None:
    """The refresh token in the cookie, if there is one. Raises Forbidden unless a page that may use it has sent it."""
    text = request.cookies.get(COOKIE)
    if text is None:
        return None
    if request.headers.get(CONSOLE_HEADER) != "1":
        raise Forbidden(f"A request with the refresh cookie needs the header {CONSOLE_HEADER}: 1.")
    if not _is_allowed_origin(request, settings):
        raise Forbidden("Pages of this origin may not use the refresh cookie (TOLLKEEPER_ALLOWED_ORIGINS).")
    return text


def require_own_page(request: Request, settings: Settings) -> None:
    """Raises Forbidden if a page of another site has sent the browser here. Such a page could log the browser in as a
    user of its own, whose conversations it reads (RFC 9700, 4.7). Clients that are no browsers send neither header.
    """
    if request.headers.get("sec-fetch-site") in ("same-origin", "none"):
        return
    referrer = urlsplit(request.headers.get("referer", ""))
    if not referrer.netloc and "sec-fetch-site" not in request.headers:
        return
    if not _is_allowed(f"{referrer.scheme}://{referrer.netloc}", request, settings):
        raise Forbidden("Pages of this origin may not log in with a cookie (TOLLKEEPER_ALLOWED_ORIGINS).")


def _is_allowed_origin(request: Request, settings: Settings) -> bool:
    """Whether the request is from a page of this server, or of an allowed origin. Browsers send it with each POST."""
    origins = request.headers.getlist("origin")
    return len(origins) == 1 and _is_allowed(origins[0], request, settings)


def _is_allowed(origin: str, request: Request, settings: Settings) -> bool:
    """Whether an origin is this server's, or an allowed one."""
    origin = origin.lower()
    own = urlsplit(settings.public_base_url)
    if origin in settings.origins or origin == f"{own.scheme}://{own.netloc}".lower():
        return True
    return urlsplit(origin).netloc == request.headers.get("host", "").lower() != ""


def needs_secure_cookie(request: Request, settings: Settings) -> bool:
    """False on a loopback address without TLS: there, some browsers would not store a secure cookie."""
    is_https = request.url.scheme == "https" or settings.public_base_url.startswith("https:")
    return is_https or not _is_loopback(request.url.hostname or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
