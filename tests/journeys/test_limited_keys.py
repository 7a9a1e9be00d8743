"""The limits of API keys on every endpoint: models, also by alias, fallback or default; surfaces; networks."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from journeys.support.endpoints import ALL_ENDPOINTS, Endpoint, call
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.support.websocket import open_websocket
from journeys.upstream.handle import Upstream, scripted

CATALOG = """
closed = true
default = "cheap"

[providers.chatty]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"
wires = ["chat/completions", "embeddings"]

[models.cheap]
provider = "chatty"
aliases = ["fast"]
fallbacks = ["dear"]

[models.dear]
provider = "chatty"
aliases = ["best"]

[models.numbers]
provider = "chatty"
"""
INPUT_COUNTS: dict[str, dict[str, Any]] = {
    "/ai/estimate": {"prompt": "x"},
    "/v1/responses/input_tokens": {"input": "x"},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "x"}]},
}


@pytest.fixture
def limiting_server(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream, tmp_path: Path
) -> Iterator[Server]:
    """A running server whose default model has a fallback."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(upstream=upstream.anthropic_url))
    server = make_server(
        database_url, TOLLKEEPER_CATALOG=str(catalog), TOLLKEEPER_BREAKER_FAILURES="0", TOLLKEEPER_RATE_LIMIT_AI="off"
    )
    yield server.start()
    assert "open holds: 0\n" in server.command("ledger", "verify")


async def post(caller: ApiUser, path: str, body: dict[str, Any], **headers: str) -> tuple[int, str]:
    """The status and the text of the response."""
    sent = caller.auth_headers | {name.replace("_", "-"): value for name, value in headers.items()}
    async with caller.http.post(path, json=body, headers=sent) as response:
        return response.status, await response.text()


async def test_a_key_is_held_to_its_models_surfaces_and_networks(limiting_server: Server, upstream: Upstream) -> None:
    async with new_user(limiting_server) as owner:
        await _check_models(owner, upstream)
        await _check_surfaces(owner, limiting_server)
        await _check_networks(owner)
        used = await owner.with_api_key(name="used")
        assert (await used.get("/me")).status == 200
    limiting_server.stop()
    listed = json.loads(limiting_server.command("key", "list", owner.email, "--json"))
    (last_used,) = [key["last_used"] for key in listed if key["name"] == "used"]
    assert last_used is not None, "uses are written at the latest when the server stops"


async def _check_models(owner: ApiUser, upstream: Upstream) -> None:
    limited = await owner.with_api_key(models=["fast"])
    for endpoint in (endpoint for endpoint in ALL_ENDPOINTS if endpoint.returns_text):
        for name in ("fast", "cheap"):
            made = await call(limited, endpoint, scripted(owner.marker), name)
            assert (made.status, made.code) == (200, None), (endpoint, made.raw)
        for name in ("dear", "best", "numbers"):
            made = await call(limited, endpoint, scripted(owner.marker), name)
            _assert_refused(endpoint, made.status, made.code, made.raw, "its models are fast")
        await call(limited, endpoint, scripted(f"fails-{owner.marker}", by_model={"cheap": {"status": 404}}), "cheap")
    fallen = [request["body"]["model"] for request in upstream.requests(f"fails-{owner.marker}")]
    assert set(fallen) == {"cheap"}, "no fallback leads to a model that the key does not allow"
    embeddings = next(endpoint for endpoint in ALL_ENDPOINTS if not endpoint.returns_text)
    made = await call(limited, embeddings, "x", "numbers")
    _assert_refused(embeddings, made.status, made.code, made.raw, "its models are fast")

    for path, body in INPUT_COUNTS.items():
        assert (await post(limited, path, body | {"model": "fast"}))[0] == 200, path
        status, text = await post(limited, path, body | {"model": "best"})
        assert (status, "its models are fast" in text) == (403, True), text
    assert [model["id"] for model in (await limited.get("/ai/models")).body["data"]] == ["cheap"]
    assert [model["id"] for model in (await limited.get("/v1/models")).body["data"]] == ["cheap"]
    assert (await limited.get("/v1/models/best")).status == 403

    other = await owner.with_api_key(models=["dear"])
    status, text = await post(other, "/ai/query", {"prompt": "x"})
    assert (status, json.loads(text)["code"]) == (403, "forbidden"), "the default is no way around"
    nothing = await owner.with_api_key(models=["absent"])
    assert (await nothing.get("/v1/models")).body == {"object": "list", "data": []}
    async with nothing.http.get("/v1/models", headers=nothing.auth_headers | {"anthropic-version": "1"}) as response:
        assert (await response.json())["first_id"] is None
    assert (await nothing.get("/ai/models")).body == {"data": []}


def _assert_refused(endpoint: Endpoint, status: int, code: str | None, raw: bytes, sentence: str) -> None:
    assert code == "forbidden", (endpoint, raw)
    assert sentence.encode() in raw, (endpoint, raw)
    if not endpoint.is_socket:
        assert status == 403, (endpoint, raw)


async def _check_surfaces(owner: ApiUser, server: Server) -> None:
    limited = await owner.with_api_key(surfaces=["messages", "query"])
    for endpoint in (endpoint for endpoint in ALL_ENDPOINTS if not endpoint.is_socket):
        made = await call(limited, endpoint, scripted(owner.marker), "cheap")
        if endpoint.path in ("/v1/messages", "/ai/query"):
            assert (made.status, made.code) == (200, None), (endpoint, made.raw)
        else:
            _assert_refused(endpoint, made.status, made.code, made.raw, "its surfaces are messages, query")
    expected = {"/ai/estimate": 403, "/v1/responses/input_tokens": 403, "/v1/messages/count_tokens": 200}
    for path, body in INPUT_COUNTS.items():
        assert (await post(limited, path, body | {"model": "fast"}))[0] == expected[path], path
    assert (await limited.get("/ai/sessions")).code == "forbidden"
    assert (await limited.get("/ai/sessions/none")).code == "forbidden"
    async with limited.http.delete("/ai/sessions/none", headers=limited.auth_headers) as response:
        assert response.status == 403
    assert (await limited.get("/v1/models")).status == (await limited.get("/me")).status == 200
    async with open_websocket(server) as connection:
        await connection.send("auth", token=limited.token)
        assert (await connection.receive())["code"] == "forbidden"
        assert await connection.wait_closed() == 4403
    with pytest.raises(InvalidStatus) as refused:
        async with open_websocket(server, additional_headers=limited.auth_headers):
            pass
    assert refused.value.response.status_code == 403


async def _check_networks(owner: ApiUser) -> None:
    limited = await owner.with_api_key(networks=["192.0.2.0/24", "2001:db8::/32"])
    for endpoint in ALL_ENDPOINTS:
        if endpoint.is_socket:
            continue
        made = await call(limited, endpoint, "x", "cheap")
        _assert_refused(endpoint, made.status, made.code, made.raw, "does not allow the address")
    for path in ("/me", "/me/quota", "/me/charges", "/ai/sessions", "/ai/models", "/v1/models"):
        assert (await limited.get(path)).status == 403, path
    for address, expected in {
        "192.0.2.9": 200,
        "::ffff:192.0.2.9": 200,
        "2001:db8::9": 200,
        "203.0.113.9": 403,
        "203.0.113.9, 192.0.2.9": 200,
        "192.0.2.9, 203.0.113.9": 403,
    }.items():
        status, text = await post(limited, "/ai/query", {"prompt": "x"}, X_Forwarded_For=address)
        assert status == expected, (address, text)


async def test_a_key_with_a_limit_that_is_none_is_not_created(server: Server) -> None:
    async with new_user(server) as owner:
        refused: tuple[dict[str, Any], ...] = (
            {"networks": ["10.0.0.1/8"]},
            {"networks": []},
            {"surfaces": ["everything"]},
            {"models": [""]},
            {"models": ["x"] * 51},
            {"models": "x"},
        )
        for fields in refused:
            made = await owner.make_key(**fields)
            assert (made.status, made.code) == (422, "invalid_request"), fields
        assert (await owner.get("/auth/keys")).body == {"data": []}
        made = await owner.make_key(models=["a"], surfaces=["ws"], networks=["::ffff:192.0.2.1"])
        listed = (await owner.get("/auth/keys")).body["data"][0]
    assert (listed["models"], listed["surfaces"], listed["networks"]) == (["a"], ["ws"], ["192.0.2.1/32"])
    assert replace(owner, token=made.body["key"]).token not in str(listed)
