"""All routes: which ones call a provider, and that none of them does so without a reservation."""

import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute
from pydantic import SecretStr

from journeys.support.compat_requests import post
from journeys.support.documents import search, upload, wait_for_error
from journeys.support.endpoints import ALL_ENDPOINTS, Endpoint, call
from journeys.support.many_users import many_users
from journeys.support.provider_wires import CHAT, EMBEDDINGS, WIRES
from journeys.support.server import SECRET, Server
from journeys.support.users import AMPLE_LIMIT, PASSWORD, ApiUser
from journeys.upstream.handle import Upstream
from tollkeeper.api.console import read_bundle
from tollkeeper.app import ENDPOINTS
from tollkeeper.bootstrap.application import make_app
from tollkeeper.settings import Settings

pytestmark = [
    pytest.mark.exhaustive_on_postgres,
    pytest.mark.prove_only_on_postgres(
        but=("test_with_a_reservation_the_metered_routes_call_a_provider_and_the_others_do_not",)
    ),
]

Route = tuple[str, str]
"""Method and path. The method of a WebSocket is WS."""

MESSAGES = [{"role": "user", "content": "How much?"}]
JOB = {"type": "query", "request": {"prompt": "How much?", "model": CHAT.model}}
METERED = {("WS" if endpoint.is_socket else "POST", endpoint.path) for endpoint in ALL_ENDPOINTS}
METERED |= {("POST", "/ai/jobs"), ("POST", "/ai/documents")}  # the call is made later
METERED.add(("POST", "/ai/search"))
METERED |= {("POST", "/ai/jobs"), ("POST", "/v1/batches"), ("POST", "/v1/messages/batches")}  # calls are made later
CONSOLE = {"/console", "/console/"}
FREE: dict[Route, Any] = {
    ("POST", "/auth/login"): {"username": "nobody@example.com", "password": PASSWORD},
    ("POST", "/auth/refresh"): {"refresh_token": "tk-refresh-0"},
    ("POST", "/auth/logout"): {"refresh_token": "tk-refresh-0"},
    ("POST", "/auth/password"): {"current_password": "wrong", "new_password": PASSWORD},
    ("POST", "/auth/totp"): None,
    ("POST", "/auth/totp/confirm"): {"code": "000000"},
    ("DELETE", "/auth/totp"): {"code": "000000"},
    ("GET", "/auth/sessions"): None,
    ("DELETE", "/auth/sessions/{session_id}"): None,
    ("GET", "/auth/reset"): None,
    ("POST", "/auth/reset"): {"token": "unknown", "password": PASSWORD},
    ("GET", "/auth/invitations"): None,
    ("POST", "/auth/invitations"): {"token": "unknown", "password": PASSWORD},
    ("POST", "/auth/keys"): {"name": "robot"},
    ("GET", "/auth/keys"): None,
    ("DELETE", "/auth/keys/{key_id}"): None,
    ("POST", "/ai/estimate"): {"prompt": "How much?", "model": CHAT.model},
    ("POST", "/v1/responses/input_tokens"): {"model": CHAT.model, "input": "How much?"},
    ("POST", "/v1/messages/count_tokens"): {"model": CHAT.model, "messages": MESSAGES},
    ("GET", "/"): None,
    ("GET", "/docs"): None,
    ("GET", "/docs/{asset}"): None,
    ("GET", "/console"): None,
    ("GET", "/console/"): None,
    ("GET", "/console/assets/{name}"): None,
    ("GET", "/redoc"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/health"): None,
    ("GET", "/health/live"): None,
    ("GET", "/health/ready"): None,
    ("GET", "/auth-status"): None,
    ("GET", "/metrics"): None,
    ("GET", "/me"): None,
    ("GET", "/me/quota"): None,
    ("POST", "/me/quota/requests"): {"tokens": 7, "window": "minute", "reason": "a test"},
    ("GET", "/me/quota/requests"): None,
    ("GET", "/me/usage"): None,
    ("GET", "/me/charges"): None,
    ("GET", "/me/charges/{charge_id}"): None,
    ("GET", "/ai/models"): None,
    ("GET", "/ai/jobs"): None,
    ("GET", "/ai/jobs/{job_id}"): None,
    ("DELETE", "/ai/jobs/{job_id}"): None,
    ("GET", "/ai/documents"): None,
    ("GET", "/ai/documents/{document_id}"): None,
    ("DELETE", "/ai/documents/{document_id}"): None,
    ("GET", "/ai/sessions"): None,
    ("GET", "/ai/sessions/{session_id}"): None,
    ("DELETE", "/ai/sessions/{session_id}"): None,
    ("GET", "/v1/models"): None,
    ("GET", "/v1/models/{model_id}"): None,
    ("POST", "/v1/files"): {},
    ("GET", "/v1/files"): None,
    ("GET", "/v1/files/{file_id}"): None,
    ("GET", "/v1/files/{file_id}/content"): None,
    ("DELETE", "/v1/files/{file_id}"): None,
    ("GET", "/v1/batches"): None,
    ("GET", "/v1/batches/{batch_id}"): None,
    ("POST", "/v1/batches/{batch_id}/cancel"): None,
    ("GET", "/v1/messages/batches"): None,
    ("GET", "/v1/messages/batches/{batch_id}"): None,
    ("GET", "/v1/messages/batches/{batch_id}/results"): None,
    ("POST", "/v1/messages/batches/{batch_id}/cancel"): None,
    ("DELETE", "/v1/messages/batches/{batch_id}"): None,
    ("POST", "/admin/tenants"): {"name": "acme"},
    ("GET", "/admin/tenants"): None,
    ("GET", "/admin/tenants/{tenant_id}"): None,
    ("PATCH", "/admin/tenants/{tenant_id}"): {"default_limit": 7, "default_period": "day"},
    ("POST", "/admin/tenants/{tenant_id}/plan"): {"plan_id": None, "reason": "a test"},
    ("POST", "/admin/plans"): {"name": "pro"},
    ("GET", "/admin/plans"): None,
    ("GET", "/admin/plans/{plan_id}"): None,
    ("PATCH", "/admin/plans/{plan_id}"): {"calls_per_user": "60/minute"},
    ("DELETE", "/admin/plans/{plan_id}"): None,
    ("POST", "/admin/users"): {"email": "ada@example.com"},
    ("GET", "/admin/users"): None,
    ("GET", "/admin/users/{user_id}"): None,
    ("PATCH", "/admin/users/{user_id}"): {"disabled": True},
    ("POST", "/admin/users/{user_id}/erase"): {"reason": "request of the person"},
    ("POST", "/admin/users/{user_id}/reset"): {},
    ("POST", "/admin/invitations"): {"email": "ada@example.com"},
    ("GET", "/admin/invitations"): None,
    ("DELETE", "/admin/invitations/{invitation_id}"): None,
    ("GET", "/admin/audit"): None,
    ("POST", "/admin/keys"): {"user_id": 1, "name": "robot"},
    ("GET", "/admin/keys"): None,
    ("GET", "/admin/keys/{key_id}"): None,
    ("PATCH", "/admin/keys/{key_id}"): {"name": "robot"},
    ("DELETE", "/admin/keys/{key_id}"): None,
    ("GET", "/admin/users/{user_id}/sessions"): None,
    ("DELETE", "/admin/users/{user_id}/sessions"): None,
    ("DELETE", "/admin/users/{user_id}/totp"): None,
    ("DELETE", "/admin/sessions/{session_id}"): None,
    ("GET", "/admin/models"): None,
    ("POST", "/admin/models/{name}/off"): {"reason": "a test"},
    ("POST", "/admin/models/{name}/on"): None,
    ("GET", "/admin/providers"): None,
    ("POST", "/admin/providers/{name}/off"): {"reason": "a test"},
    ("POST", "/admin/providers/{name}/on"): None,
    ("GET", "/admin/provider-keys"): None,
    ("GET", "/admin/provider-keys/{provider}"): None,
    ("PUT", "/admin/provider-keys/{provider}"): {"key": "sk-of-the-tenant-0123456789"},
    ("DELETE", "/admin/provider-keys/{provider}"): None,
    ("GET", "/auth/oidc"): None,
    ("GET", "/auth/oidc/{name}/start"): None,
    ("GET", "/auth/oidc/{name}/callback"): None,
    ("GET", "/admin/identity-provider"): None,
    ("PUT", "/admin/identity-provider"): {"name": "acme", "issuer": "https://idp.example.com", "client_id": "c"},
    ("DELETE", "/admin/identity-provider"): None,
    ("GET", "/admin/tenants/{tenant_id}/domains"): None,
    ("POST", "/admin/tenants/{tenant_id}/domains"): {"domain": "example.com"},
    ("DELETE", "/admin/tenants/{tenant_id}/domains/{domain}"): None,
    ("GET", "/admin/users/{user_id}/identities"): None,
    ("POST", "/admin/users/{user_id}/identities"): {"subject": "248289761001"},
    ("DELETE", "/admin/users/{user_id}/identities"): None,
    ("GET", "/admin/moderation"): None,
    ("PUT", "/admin/moderation"): {"rules": []},
    ("DELETE", "/admin/moderation"): None,
    ("GET", "/admin/moderation/counts"): None,
    ("GET", "/admin/scores"): None,
    ("GET", "/admin/groups"): None,
    ("POST", "/admin/groups"): {"name": "research"},
    ("DELETE", "/admin/groups/{group_id}"): None,
    ("GET", "/admin/groups/{group_id}/members"): None,
    ("PUT", "/admin/groups/{group_id}/members/{user_id}"): {"default": True},
    ("DELETE", "/admin/groups/{group_id}/members/{user_id}"): None,
    ("GET", "/admin/tags"): None,
    ("POST", "/admin/tags"): {"name": "run"},
    ("PUT", "/admin/tags/{tag_id}"): {"max_values": 5},
    ("DELETE", "/admin/tags/{tag_id}"): None,
    ("GET", "/admin/tags/{tag_id}/values"): None,
    ("GET", "/admin/quotas"): None,
    ("POST", "/admin/quotas"): {"user_id": 2_000_000_000, "window": "day", "limit": 7, "reason": "a test"},
    ("DELETE", "/admin/quotas"): None,
    ("POST", "/admin/quotas/grant"): {"user_id": 2_000_000_000, "window": "day", "amount": 7, "reason": "a test"},
    ("GET", "/admin/alerts"): None,
    ("POST", "/admin/alerts/rules"): {"percents": [80]},
    ("GET", "/admin/alerts/rules"): None,
    ("DELETE", "/admin/alerts/rules/{rule_id}"): None,
    ("POST", "/admin/quotas/override"): {
        "user_id": 2_000_000_000,
        "window": "day",
        "limit": 7,
        "until": "2038-01-16T00:00:00Z",
        "reason": "a test",
    },
    ("GET", "/admin/quota-requests"): None,
    ("GET", "/admin/quota-requests/{request_id}"): None,
    ("POST", "/admin/quota-requests/{request_id}/grant"): {},
    ("POST", "/admin/quota-requests/{request_id}/decline"): {"reason": "a test"},
    ("GET", "/admin/usage"): None,
    ("GET", "/admin/statements/{tenant_id}/{month}"): None,
    ("GET", "/admin/charges"): None,
    ("GET", "/admin/contents"): None,
    ("GET", "/admin/events"): None,
    ("GET", "/admin/contents/{charge_id}"): None,
    ("GET", "/admin/doctor"): None,
    ("POST", "/admin/ledger/verify"): None,
    ("GET", "/admin/ledger/verify"): None,
    ("POST", "/admin/audit/verify"): None,
    ("GET", "/admin/audit/verify"): None,
    ("GET", "/admin/charges/{charge_id}"): None,
    ("POST", "/admin/webhooks"): {"url": "https://hooks.example.com", "events": ["job.completed"]},
    ("GET", "/admin/webhooks"): None,
    ("GET", "/admin/webhooks/{webhook_id}"): None,
    ("PATCH", "/admin/webhooks/{webhook_id}"): {"disabled": True},
    ("DELETE", "/admin/webhooks/{webhook_id}"): None,
    ("POST", "/admin/webhooks/{webhook_id}/rotate-secret"): {},
    ("POST", "/admin/webhooks/{webhook_id}/test"): {},
    ("GET", "/admin/webhooks/{webhook_id}/deliveries"): None,
    ("GET", "/admin/webhooks/{webhook_id}/deliveries/{delivery_id}"): None,
    ("POST", "/admin/webhooks/{webhook_id}/deliveries/{delivery_id}/replay"): {},
    ("POST", "/admin/charges/{charge_id}/refund"): {"reason": "a test"},
}
"""Routes that never call a provider, and the body for each."""


def test_every_route_of_the_application_is_listed_here() -> None:
    """A new route must be listed here as metered or free; the tests below check that the list is true."""
    assert _routes(_application()) == METERED | FREE.keys()
    assert not METERED & FREE.keys()


def test_a_route_that_is_not_listed_here_is_noticed() -> None:
    application = _application()

    @application.post("/ai/oracle", include_in_schema=False)
    async def query() -> None: ...

    @application.websocket("/ai/oracle")
    async def turns() -> None: ...

    assert _routes(application) - METERED - FREE.keys() == {("POST", "/ai/oracle"), ("WS", "/ai/oracle")}


async def test_every_route_of_the_openapi_document_is_listed_here(all_wires_server: Server) -> None:
    async with many_users(all_wires_server, 1) as (caller,):
        document = (await caller.get("/openapi.json")).body
    described = {(method.upper(), path) for path, found in document["paths"].items() for method in found}
    assert described <= METERED | FREE.keys()
    assert {route for route in METERED if route[0] != "WS"} <= described


async def test_no_path_has_a_second_form_with_a_slash_at_its_end(all_wires_server: Server) -> None:
    """Neither a redirect nor the endpoint: 404, in the format of the path's API. Only the console, whose address people
    type, has both forms.
    """
    async with many_users(all_wires_server, 1) as (caller,):
        for method, path in sorted(METERED | FREE.keys()):
            if method == "WS" or path in {"/", *CONSOLE}:
                continue
            for version in ({}, {"anthropic-version": "2023-06-01"}):
                async with caller.http.request(
                    method, f"{path}/", headers=caller.auth_headers | version, allow_redirects=False
                ) as response:
                    assert response.status == 404, (method, path)
                    body = await response.json(content_type=None)
                if not path.startswith("/v1/"):
                    assert body["code"] == "not_found", (method, path)
                else:
                    is_anthropic = bool(version) or path.startswith("/v1/messages")
                    assert (body.get("type") == "error") == is_anthropic, (method, path)
                    assert body["error"]["message"], (method, path)


@pytest.mark.parametrize("limit", [None, 0], ids=["no quota", "a quota of nothing"])
async def test_without_a_reservation_no_endpoint_calls_a_provider(
    short_deadline_server: Server, own_upstream: Upstream, limit: int | None
) -> None:
    short_deadline_server.start()
    async with many_users(short_deadline_server, 1, limit) as (caller,):
        for endpoint in ALL_ENDPOINTS:
            for wire in WIRES if endpoint.returns_text else (EMBEDDINGS,):
                client_call = await call(caller, endpoint, "How much?", wire.model)
                assert (client_call.status, client_call.code) == (429, "quota_exceeded"), (endpoint, client_call.raw)
        assert (await post(caller, "/ai/jobs", **JOB)).code == "quota_exceeded"
        assert (await search(caller, "How much?")).code == "quota_exceeded"
        uploaded = await upload(caller, "So much.")
        await wait_for_error(caller, uploaded.body["document_id"], "quota_exceeded")
        await _call_free_routes(caller)
        assert await caller.charges() == []
    assert own_upstream.requests("") == []
    short_deadline_server.stop()


async def test_with_a_reservation_the_metered_routes_call_a_provider_and_the_others_do_not(
    short_deadline_server: Server, own_upstream: Upstream
) -> None:
    """Proves that the test above does not pass because its requests are wrong."""
    short_deadline_server.start()
    async with many_users(short_deadline_server, 1, AMPLE_LIMIT) as (caller,):
        for number, endpoint in enumerate(ALL_ENDPOINTS, start=1):
            client_call = await call(caller, endpoint, "How much?", _model(endpoint))
            assert (client_call.status, client_call.code) == (200, None), (endpoint, client_call.raw)
            assert len(own_upstream.requests("")) == len(await caller.charges()) == number
        await _call_free_routes(caller)
        assert len(own_upstream.requests("")) == len(await caller.charges()) == len(ALL_ENDPOINTS)
    short_deadline_server.stop()


def _model(endpoint: Endpoint) -> str:
    return CHAT.model if endpoint.returns_text else EMBEDDINGS.model


async def _call_free_routes(caller: ApiUser) -> None:
    for (method, path), body in FREE.items():
        filled = path.replace("{model_id}", CHAT.model).replace("{session_id}", "none").replace("{charge_id}", "chg_0")
        async with caller.http.request(method, filled, json=body, headers=caller.auth_headers) as response:
            assert response.status == _expected(method, path), (method, path, await response.text())


def _expected(method: str, path: str) -> int:
    """The status of a free route for a member: of the resources in the paths, only the model exists."""
    if path.startswith("/admin/"):
        return 403
    if path in ("/auth/login", "/auth/refresh", "/auth/logout", "/auth/password", "/auth/totp/confirm"):
        return 401  # the credential or the code is wrong
    if method == "POST" and path in ("/auth/reset", "/auth/invitations"):
        return 400  # the link is unknown
    if (method, path) in {("POST", "/auth/keys"), ("POST", "/auth/totp")}:
        return 201
    if (method, path) in {("POST", "/me/quota/requests"), ("GET", "/auth/oidc")}:
        return 422  # there is no quota per minute, and the domain is missing
    if (method, path) == ("POST", "/v1/files"):
        return 415  # it is no form
    if path == "/auth/oidc/{name}/callback":
        return 401  # there is no cookie
    if (method, path) == ("DELETE", "/auth/totp"):
        return 404  # there is no second factor
    if path in CONSOLE:
        return 200 if read_bundle() is not None else 404
    return 404 if "{" in path and "model_id" not in path else 200


def _application() -> FastAPI:
    """The FastAPI application inside its middleware."""
    wrapped: Any = make_app(Settings(database_url="sqlite:///unused.db", signing_secret=SecretStr(SECRET)))
    while not isinstance(wrapped, FastAPI):
        wrapped = getattr(wrapped, "_app", None) or wrapped.app
    return wrapped


def _routes(application: FastAPI) -> set[Route]:
    """All routes, also those that are not in the OpenAPI document, without HEAD."""
    found = {("POST", endpoint.path) for endpoint in ENDPOINTS}
    route: Any
    for route in application.routes:
        parts = route.effective_route_contexts() if hasattr(route, "effective_route_contexts") else [route]
        for part in parts:
            origin = getattr(part, "original_route", part)
            if isinstance(origin, APIWebSocketRoute):
                found.add(("WS", origin.path))
            else:
                found |= {(method, re.sub(r":\w+}", "}", part.path)) for method in part.methods - {"HEAD"}}
    return found
