"""create_app(services): lifespan, middleware, routers, error handlers; nothing else."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from slowapi.errors import RateLimitExceeded
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tollkeeper import __version__
from tollkeeper.api import auth, health, keys, me
from tollkeeper.api.compat import DOORS as COMPAT_DOORS
from tollkeeper.api.compat import manner_of
from tollkeeper.api.compat import models as models_of_others
from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import MeteredRouter
from tollkeeper.api.middleware import Envelope
from tollkeeper.api.native import DOORS as NATIVE_DOORS
from tollkeeper.api.native import models, sessions, socket
from tollkeeper.api.openapi import describe
from tollkeeper.errors import InvalidRequest, MethodNotAllowed, NotFound, RateLimited, TollkeeperError
from tollkeeper.telemetry.logging import AccessLog
from tollkeeper.throttle import Throttle

DOORS = (*NATIVE_DOORS, *COMPAT_DOORS)
CUT_CALLS_SETTLE_WITHIN_S = 5.0
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
DESCRIPTION = "A secured multi-tenant AI API whose token quotas are exact."


def create_app(
    services: Callable[[], AbstractAsyncContextManager[Services]],
    throttle: Throttle,
    access_log: AccessLog,
    trusted_proxies: str,
    allowed_origins: Collection[str] = (),
) -> ASGIApp:
    """The application: FastAPI, and in front of it the doors, and what every request passes.

    `services` is entered when it starts and left when it stops. `trusted_proxies` may say who the client is, in
    X-Forwarded-For: addresses or networks, separated by commas, or "*". Pages of `allowed_origins` may call from a
    browser.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with services() as app.state.services:
            yield
            await envelope.wait_for_calls(CUT_CALLS_SETTLE_WITHIN_S)

    app = FastAPI(title="Tollkeeper", version=__version__, description=DESCRIPTION, lifespan=lifespan)
    app.state.limiter = throttle.limiter
    app.include_router(health.router)
    app.include_router(auth.auth_router(throttle))
    app.include_router(keys.router)
    app.include_router(me.router)
    app.include_router(models.router)
    app.include_router(models_of_others.router)
    app.include_router(sessions.router)
    app.include_router(socket.router)
    _add_error_handlers(app)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            app.openapi_schema = describe(document, DOORS)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    behind_proxies = cast(ASGIApp, ProxyHeadersMiddleware(app, trusted_proxies))  # type: ignore[arg-type]
    entrance = MeteredRouter(behind_proxies, DOORS, lambda: cast(Services, app.state.services))
    envelope = Envelope(entrance, access_log, unread=[door.path for door in DOORS], manner_of=manner_of)
    return _for_browsers(envelope, allowed_origins) if allowed_origins else envelope


def _for_browsers(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Pages of these origins may call, with any header, and read those that we send. Credentials are no cookies."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("*",),
        max_age=600,
    )


def _add_error_handlers(app: FastAPI) -> None:
    async def on_error(request: Request, error: Exception) -> Response:
        status, body, headers = manner_of(request.scope)(_domain_error(request, error))
        return Response(body, status, headers)

    for kind in (TollkeeperError, RateLimitExceeded, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, on_error)


def _domain_error(request: Request, error: Exception) -> TollkeeperError:
    """The framework's errors, in our words, and without what was sent."""
    match error:
        case TollkeeperError():
            return error
        case RateLimitExceeded():
            return RateLimited(retry_after_s=error.limit.limit.get_expiry() if error.limit else None)
        case RequestValidationError():
            fields = sorted({str(problem["loc"][-1]) for problem in error.errors() if problem["loc"][0] == "query"})
            return InvalidRequest(f"Look at: {', '.join(fields)}." if fields else None)
        case HTTPException(status_code=404):
            return NotFound()
        case HTTPException(status_code=405):
            return MethodNotAllowed(_methods_of(request))
        case _:
            return InvalidRequest()


def _methods_of(request: Request) -> str:
    """What its path takes. The framework knows only what the first of the path's routes takes."""
    asked = [(method, {**request.scope, "method": method}) for method in METHODS]
    routes = request.app.routes
    return ", ".join(
        method for method, scope in asked if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )
