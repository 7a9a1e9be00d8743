"""Every route there is: which can reach a provider, and that none of those does without a reservation."""

import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute
from pydantic import SecretStr

from journeys.support.endpoints import DOORS, Door, call
from journeys.support.many_users import crowd
from journeys.support.provider_wires import CHAT, EMBEDDINGS, WIRES
from journeys.support.server import SECRET, Server
from journeys.support.users import PASSWORD, PLENTY, Person
from journeys.upstream.handle import Upstream
from tollkeeper.app import ENDPOINTS
from tollkeeper.bootstrap import make_app
from tollkeeper.settings import Settings

pytestmark = pytest.mark.exhaustive_on_postgres

Route = tuple[str, str]
"""Method and path. A WebSocket's method is WS."""

MESSAGES = [{"role": "user", "content": "How much?"}]
METERED = {("WS" if door.is_socket else "POST", door.path) for door in DOORS}
FREE: dict[Route, Any] = {
    ("POST", "/auth/login"): {"username": "nobody@example.com", "password": PASSWORD},
    ("POST", "/auth/keys"): {"name": "robot"},
    ("GET", "/auth/keys"): None,
    ("DELETE", "/auth/keys/{key_id}"): None,
    ("POST", "/ai/estimate"): {"prompt": "How much?", "model": CHAT.model},
    ("POST", "/v1/messages/count_tokens"): {"model": CHAT.model, "messages": MESSAGES},
    ("GET", "/"): None,
    ("GET", "/docs"): None,
    ("GET", "/docs/oauth2-redirect"): None,
    ("GET", "/redoc"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/health"): None,
    ("GET", "/health/live"): None,
    ("GET", "/health/ready"): None,
    ("GET", "/me"): None,
    ("GET", "/me/quota"): None,
    ("GET", "/me/charges"): None,
    ("GET", "/me/charges/{charge_id}"): None,
    ("GET", "/ai/models"): None,
    ("GET", "/ai/sessions"): None,
    ("GET", "/ai/sessions/{session_id}"): None,
    ("DELETE", "/ai/sessions/{session_id}"): None,
    ("GET", "/v1/models"): None,
    ("GET", "/v1/models/{model_id}"): None,
}
"""Routes that never reach a provider, and what is sent to them."""


def test_every_route_of_the_application_is_known_here() -> None:
    """Who adds a route has to say here whether it is metered; the tests below look whether that is true."""
    assert _routes(_application()) == METERED | FREE.keys()
    assert not METERED & FREE.keys()


def test_a_route_that_is_not_known_here_is_noticed() -> None:
    application = _application()

    @application.post("/ai/oracle", include_in_schema=False)
    async def ask() -> None: ...

    @application.websocket("/ai/oracle")
    async def talk() -> None: ...

    assert _routes(application) - METERED - FREE.keys() == {("POST", "/ai/oracle"), ("WS", "/ai/oracle")}


async def test_every_route_of_the_document_is_known_here(doors: Server) -> None:
    async with crowd(doors, 1) as (caller,):
        document = (await caller.get("/openapi.json")).body
    described = {(method.upper(), path) for path, found in document["paths"].items() for method in found}
    assert described <= METERED | FREE.keys()
    assert {route for route in METERED if route[0] != "WS"} <= described


@pytest.mark.parametrize("limit", [None, 0], ids=["no quota", "a quota of nothing"])
async def test_without_a_reservation_nobody_reaches_a_provider(
    hasty_doors: Server, own_upstream: Upstream, limit: int | None
) -> None:
    hasty_doors.start()
    async with crowd(hasty_doors, 1, limit) as (caller,):
        for door in DOORS:
            for wire in WIRES if door.writes else (EMBEDDINGS,):
                made = await call(caller, door, "How much?", wire.model)
                assert (made.status, made.code) == (429, "quota_exceeded"), (door, made.raw)
        await _visit_free_routes(caller)
        assert await caller.charges() == []
    assert own_upstream.seen("") == []
    hasty_doors.stop()


async def test_with_a_reservation_the_metered_routes_reach_a_provider_and_the_others_do_not(
    hasty_doors: Server, own_upstream: Upstream
) -> None:
    """So that the test above does not pass because nothing was asked in the right way."""
    hasty_doors.start()
    async with crowd(hasty_doors, 1, PLENTY) as (caller,):
        for number, door in enumerate(DOORS, start=1):
            made = await call(caller, door, "How much?", _model(door))
            assert (made.status, made.code) == (200, None), (door, made.raw)
            assert len(own_upstream.seen("")) == len(await caller.charges()) == number
        await _visit_free_routes(caller)
        assert len(own_upstream.seen("")) == len(await caller.charges()) == len(DOORS)
    hasty_doors.stop()


def _model(door: Door) -> str:
    return CHAT.model if door.writes else EMBEDDINGS.model


async def _visit_free_routes(caller: Person) -> None:
    for (method, path), body in FREE.items():
        filled = path.replace("{model_id}", CHAT.model).replace("{session_id}", "none").replace("{charge_id}", "chg_0")
        async with caller.http.request(method, filled, json=body, headers=caller.bearer) as response:
            assert response.status == _expected(method, path), (method, path, await response.text())


def _expected(method: str, path: str) -> int:
    """What is looked for does not exist, but for the model."""
    if path == "/auth/login":
        return 401
    if (method, path) == ("POST", "/auth/keys"):
        return 201
    return 404 if "{" in path and "model_id" not in path else 200


def _application() -> FastAPI:
    """Not the whole of it: the part that has routes."""
    wrapped: Any = make_app(Settings(database_url="sqlite:///unused.db", signing_secret=SecretStr(SECRET)))
    while not isinstance(wrapped, FastAPI):
        wrapped = getattr(wrapped, "_app", None) or wrapped.app
    return wrapped


def _routes(application: FastAPI) -> set[Route]:
    """Every route, those that are not in the document too. HEAD is GET without a body."""
    found = {("POST", door.path) for door in ENDPOINTS}
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
