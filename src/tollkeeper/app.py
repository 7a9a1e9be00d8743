"""create_app(services): lifespan, middleware, routers and error handlers."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from tollkeeper import __version__
from tollkeeper.api import (
    auth,
    auth_sessions,
    auth_totp,
    compat,
    console,
    documents,
    health,
    keys,
    legacy,
    links,
    me,
    metrics,
    native,
    provider_credentials,
    quota_requests,
    single_sign_on,
    usage,
)
from tollkeeper.api.admin import alerts as admin_alerts
from tollkeeper.api.admin import audit as admin_audit
from tollkeeper.api.admin import charges as admin_charges
from tollkeeper.api.admin import contents as admin_contents
from tollkeeper.api.admin import doctor as admin_doctor
from tollkeeper.api.admin import events as admin_events
from tollkeeper.api.admin import groups as admin_groups
from tollkeeper.api.admin import keys as admin_keys
from tollkeeper.api.admin import links as admin_links
from tollkeeper.api.admin import models as admin_models
from tollkeeper.api.admin import moderation as admin_moderation
from tollkeeper.api.admin import plans as admin_plans
from tollkeeper.api.admin import provider_keys as admin_provider_keys
from tollkeeper.api.admin import quota_requests as admin_quota_requests
from tollkeeper.api.admin import quotas as admin_quotas
from tollkeeper.api.admin import scores as admin_scores
from tollkeeper.api.admin import sessions as admin_sessions
from tollkeeper.api.admin import single_sign_on as admin_single_sign_on
from tollkeeper.api.admin import statements as admin_statements
from tollkeeper.api.admin import tags as admin_tags
from tollkeeper.api.admin import tenants as admin_tenants
from tollkeeper.api.admin import usage as admin_usage
from tollkeeper.api.admin import users as admin_users
from tollkeeper.api.admin import verifications as admin_verifications
from tollkeeper.api.admin import webhook_deliveries as admin_webhook_deliveries
from tollkeeper.api.admin import webhooks as admin_webhooks
from tollkeeper.api.body_budget import BodyBudget
from tollkeeper.api.compat import batches as compat_batches
from tollkeeper.api.compat import error_renderer_of, is_below_wrong_base_url
from tollkeeper.api.compat import files as compat_files
from tollkeeper.api.compat import message_batches as compat_message_batches
from tollkeeper.api.compat import model_list as compat_model_list
from tollkeeper.api.dependencies import Services
from tollkeeper.api.legacy import socket as legacy_socket
from tollkeeper.api.limit_headers import limits_of_refusal, note_limits
from tollkeeper.api.metered import MeteredRouter
from tollkeeper.api.middleware import ObserveRequest, OuterMiddleware
from tollkeeper.api.native import documents as uploaded_documents
from tollkeeper.api.native import jobs, model_list, search, sessions, socket
from tollkeeper.api.openapi import complete_document
from tollkeeper.errors import InvalidRequest, MethodNotAllowed, NotFound, QuotaRefusal, RateLimited, TollkeeperError
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.telemetry.logging import AccessLog

ENDPOINTS = (*native.ENDPOINTS, *compat.ENDPOINTS)
"""All metered endpoints."""
ROUTERS = (
    health.router,
    provider_credentials.router,
    metrics.router,
    auth.router,
    auth_sessions.router,
    auth_totp.router,
    links.router,
    single_sign_on.router,
    keys.router,
    me.router,
    usage.router,
    quota_requests.router,
    model_list.router,
    compat_model_list.router,
    compat_files.router,
    compat_batches.router,
    compat_message_batches.router,
    sessions.router,
    jobs.router,
    uploaded_documents.router,
    search.router,
    socket.router,
    admin_tenants.router,
    admin_plans.router,
    admin_keys.router,
    admin_sessions.router,
    admin_users.router,
    admin_links.router,
    admin_models.router,
    admin_moderation.router,
    admin_scores.router,
    admin_provider_keys.router,
    admin_single_sign_on.router,
    admin_groups.router,
    admin_tags.router,
    admin_quotas.router,
    admin_quota_requests.router,
    admin_alerts.router,
    admin_charges.router,
    admin_usage.router,
    admin_statements.router,
    admin_contents.router,
    admin_events.router,
    admin_audit.router,
    admin_verifications.router,
    admin_doctor.router,
    admin_webhooks.router,
    admin_webhook_deliveries.router,
)
"""All other routes."""
CANCELLED_CALLS_TIMEOUT_S = 5.0
"""How long the server waits at its stop until the calls that it cancelled are settled."""
NO_ENDPOINT = "No such endpoint. GET /docs lists all endpoints."
NO_ENDPOINT_AT_BASE_URL = (
    "No such endpoint: a path of these APIs begins with /v1, once."
    " OpenAI SDKs: the base URL ends in /v1; Anthropic SDKs: it does not."
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
DESCRIPTION = "A secured multi-tenant AI API whose token quotas are exact."


def create_app(
    services: Callable[[], AbstractAsyncContextManager[Services]],
    throttle: Throttle,
    access_log: AccessLog,
    trusted_proxies: str,
    allowed_origins: Collection[str] = (),
    observe: ObserveRequest = lambda *_: None,
    *,
    legacy_routes: bool = False,
) -> ASGIApp:
    """The application: FastAPI, in front of it the router of the metered endpoints, and the outermost middleware.

    `services` is entered when the application starts and exited when it stops. `trusted_proxies` are the addresses or
    networks, separated by commas, whose X-Forwarded-For is trusted; or "*". Pages of `allowed_origins` may call the API
    from a browser. `observe` is called at the end of each request. `legacy_routes`: with the endpoints of `api/legacy`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with services() as app.state.services:
            yield
            await middleware.wait_until_idle(CANCELLED_CALLS_TIMEOUT_S)

    app = FastAPI(
        title="Tollkeeper",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,  # clients are generated with these names
    )
    app.state.body_budget = BodyBudget()
    documents.add_documents(app, throttle)
    console.add_console(app, throttle, console.read_bundle())
    endpoints = (*ENDPOINTS, *legacy.ENDPOINTS) if legacy_routes else ENDPOINTS
    for router in (*ROUTERS, *((legacy_socket.router,) if legacy_routes else ())):
        app.include_router(router)
    _add_error_handlers(app)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            app.openapi_schema = complete_document(document, endpoints)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    metered = MeteredRouter(app, endpoints, lambda: cast(Services, app.state.services), app.state.body_budget)
    middleware = OuterMiddleware(metered, access_log, error_renderer_of, observe)
    outermost = _with_cors(middleware, allowed_origins) if allowed_origins else middleware
    return cast(ASGIApp, ProxyHeadersMiddleware(outermost, trusted_proxies))  # type: ignore[arg-type]


def _with_cors(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Pages of these origins may send any header and read any. Cookies are not allowed: the only one is for this
    server's own pages."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
        allow_headers=("*",),
        expose_headers=("*",),
        max_age=600,
    )


def _add_error_handlers(app: FastAPI) -> None:
    async def on_error(request: Request, error: Exception) -> Response:
        shown = _domain_error(request, error)
        if isinstance(shown, QuotaRefusal | RateLimited):
            services: Services = request.app.state.services
            note_limits(request.scope, limits_of_refusal(shown, services.clock.now_ms()))
        status, body, headers = error_renderer_of(request.scope)(shown)
        return Response(body, status, headers)

    for kind in (TollkeeperError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, on_error)


def _domain_error(request: Request, error: Exception) -> TollkeeperError:
    """The framework's errors as ours, without any of the input."""
    match error:
        case TollkeeperError():
            return error
        case RequestValidationError() if all(problem["loc"][0] == "path" for problem in error.errors()):
            return NotFound()  # an id that nothing can have is as one that nothing has
        case RequestValidationError():
            fields = sorted({str(problem["loc"][-1]) for problem in error.errors() if problem["loc"][0] == "query"})
            return InvalidRequest(
                f"Invalid parameters: {', '.join(fields)}. GET /docs describes them." if fields else None
            )
        case HTTPException(status_code=404):
            return NotFound(NO_ENDPOINT_AT_BASE_URL if is_below_wrong_base_url(request.url.path) else NO_ENDPOINT)
        case HTTPException(status_code=405):
            return MethodNotAllowed(_allowed_methods(request))
        case _:
            return InvalidRequest()


def _allowed_methods(request: Request) -> str:
    """The methods of all routes of this path; the framework knows those of the first route only."""
    scopes = [(method, {**request.scope, "method": method}) for method in METHODS]
    routes = request.app.routes
    return ", ".join(
        method for method, scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )
