"""The legacy routes, by the examples of docs/from-wrappers.md: the same requests, to a running server."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from journeys.support.many_users import many_users
from journeys.support.server import Server
from journeys.support.users import AMPLE_LIMIT, ApiUser
from journeys.upstream.handle import Upstream

pytestmark = pytest.mark.prove_only_on_postgres(but=("test_every_example_of_the_document_is_answered_as_it_shows",))

DOCUMENT = (Path(__file__).parents[2] / "docs" / "from-wrappers.md").read_text()
BLOCK = re.compile(r"^```(http|ws|json|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)

Example = tuple[str, str, dict[str, Any], str, str]
"""The kind of the request, its path and body, and the kind and the text of the response; empty without one."""


@pytest.fixture
def legacy_server(make_server: Callable[..., Server], database_url: str, own_upstream: Upstream) -> Iterator[Server]:
    server = make_server(database_url, OPENAI_BASE_URL=own_upstream.base_url, TOLLKEEPER_LEGACY_ROUTES="on")
    yield server.start()
    server.stop()


def _examples() -> list[Example]:
    blocks = BLOCK.findall(DOCUMENT)
    found: list[Example] = []
    for number, (kind, text) in enumerate(blocks):
        if kind in ("http", "ws"):
            path, body = text.split("\n", 1)
            answer = blocks[number + 1] if number + 1 < len(blocks) else ("", "")
            response = answer if answer[0] in ("json", "text") else ("", "")
            found.append((kind, path.removeprefix("POST "), json.loads(body), *response))
    return found


async def test_every_example_of_the_document_is_answered_as_it_shows(
    legacy_server: Server, own_upstream: Upstream
) -> None:
    examples = _examples()
    assert len(examples) == 8
    async with many_users(legacy_server, 1, AMPLE_LIMIT) as (caller,):
        for count, (kind, path, body, answer_kind, shown) in enumerate(examples, start=1):
            if "user_id" in body:
                body["user_id"] = str(caller.principal.user_id)
            if kind == "ws":
                events = await _frames(caller, path, body)
                assert [set(_event(shown)) - set(event) for event in events] == [set()] * len(events)
                _assert_whole(events)
            elif answer_kind == "text":
                events = await _events(caller, path, body)
                assert set(events[0]) == set(_event(shown))
                _assert_whole(events)
            else:
                await _assert_shape(caller, path, body, shown)
            charges = await caller.charges()
            assert len(charges) == count, (path, charges)
            assert charges[0]["basis"] == "provider"
    assert len(own_upstream.requests("")) == len(examples)


async def test_a_user_id_of_another_user_is_refused_on_every_legacy_route_and_costs_nothing(
    legacy_server: Server, own_upstream: Upstream
) -> None:
    async with many_users(legacy_server, 2, AMPLE_LIMIT) as (caller, other):
        stranger = other.principal.user_id
        for path, field in (("/chat", "message"), ("/api/generate", "prompt"), ("/ai/query", "prompt")):
            for user_id in (stranger, str(stranger), "ada@example.com", 0):
                status, document = await _post(caller, path, {field: "How much?", "user_id": user_id})
                assert (status, document["code"]) == (403, "forbidden"), path
            assert (await _post(caller, path, {field: "How much?", "user_id": caller.principal.user_id}))[0] == 200
            assert (await _post(caller, path, {field: "How much?", "role": "operator"}))[0] == 422
            async with caller.http.post(path, json={field: "How much?"}) as response:
                assert response.status == 401
        (frame,) = await _frames(caller, "/ws/generate", {"prompt": "How much?", "user_id": stranger, "id": "7"})
        assert (frame["status"], frame["code"]) == (403, "forbidden")
        assert len(await caller.charges()) == 3
        assert await other.charges() == []
    assert len(own_upstream.requests("")) == 3


async def test_a_legacy_route_is_a_surface_of_api_keys_and_the_document_describes_it(legacy_server: Server) -> None:
    async with many_users(legacy_server, 1, AMPLE_LIMIT) as (caller,):
        limited = await caller.with_api_key(surfaces=["chat"])
        assert (await _post(limited, "/chat", {"message": "How much?"}))[0] == 200
        assert (await _post(limited, "/api/generate", {"prompt": "How much?"}))[0] == 403
        described = (await caller.get("/openapi.json")).body["paths"]
        assert {"/chat", "/api/generate"} <= described.keys()


async def test_without_the_setting_there_are_no_legacy_routes(server: Server) -> None:
    async with many_users(server, 1, AMPLE_LIMIT) as (caller,):
        assert (await _post(caller, "/chat", {"message": "How much?"}))[0] == 404
        assert (await _post(caller, "/api/generate", {"prompt": "How much?"}))[0] == 404
        own = {"prompt": "How much?", "user_id": caller.principal.user_id}
        assert (await _post(caller, "/ai/query", own))[0] == 422


def _event(shown: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown.removeprefix("data: "))
    return found


def _assert_whole(events: list[dict[str, Any]]) -> None:
    """The events are numbered, and the last one is the only final one; before it, there is text."""
    assert [event["sequence"] for event in events] == list(range(len(events)))
    assert [event["is_final"] for event in events] == [False] * (len(events) - 1) + [True]
    assert "".join(event["content"] for event in events)


async def _assert_shape(caller: ApiUser, path: str, body: dict[str, Any], shown: str) -> None:
    status, document = await _post(caller, path, body)
    assert status == 200, document
    if not shown:
        return
    expected = json.loads(shown)
    assert document.keys() == expected.keys(), path
    if "timestamp" in expected:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", document["timestamp"])
        assert document["prompt"] == body["prompt"]
    charge = (await caller.charges())[0]
    total = charge["input_tokens"] + charge["output_tokens"]
    counts = document.get("usage", document)
    assert counts.get("total_tokens", document.get("tokens_used")) == total
    assert document.get("response", document.get("answer"))


async def _post(caller: ApiUser, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with caller.http.post(path, json=body, headers=caller.auth_headers) as response:
        return response.status, await response.json(content_type=None)


async def _events(caller: ApiUser, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with caller.http.post(path, json=body, headers=caller.auth_headers) as response:
        assert response.status == 200
        lines = (await response.text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def _frames(caller: ApiUser, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The frames of one turn, to its last one or to an error."""
    found: list[dict[str, Any]] = []
    async with caller.http.ws_connect(path, headers=caller.auth_headers) as websocket:
        await websocket.send_json(body)
        while not found or not found[-1].get("is_final", "status" in found[-1]):
            found.append(await websocket.receive_json())
    return found
