"""Claude Code's requests, as its gateway protocol describes them, on models of Anthropic's and of OpenAI's wire.

The bodies are written after the published contract ("Gateway protocol reference", Claude Code docs).
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from journeys.clients.samples import ANSWER, CALL, CHUNKS, USAGE, WEATHER, cost_of_all
from journeys.support.client_formats import events_in
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import Upstream, scripted

AT_ANTHROPIC, AT_OPENAI = "at-anthropic", "gpt-4o-mini"
BETAS = "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,effort-2025-11-24"
HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": BETAS,
    "anthropic-dangerous-direct-browser-access": "true",
    "x-app": "cli",
    "X-Claude-Code-Session-Id": "00000000-0000-0000-0000-000000000000",
    "User-Agent": "claude-cli/2.1.200 (external, cli)",
}
PATH = "/v1/messages?beta=true"
HOUR = {"type": "ephemeral", "ttl": "1h", "scope": "global"}
CLEARING = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}


def turn(prompt: str, **fields: Any) -> dict[str, Any]:
    """A turn of the main conversation."""
    return {
        "model": AT_ANTHROPIC,
        "max_tokens": 4_000,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.200;"},
            {"type": "text", "text": "You help with code.", "cache_control": {"type": "ephemeral"}},
        ],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": prompt, "cache_control": {"type": "ephemeral"}}],
            }
        ],
        "tools": [
            {
                "name": "get_weather",
                "description": "Tells the weather.",
                "input_schema": WEATHER,
                "eager_input_streaming": True,
            },
            {"name": "mcp__docs__search", "description": "Searches.", "input_schema": WEATHER, "defer_loading": True},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        ],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "medium"},
        "context_management": CLEARING,
        "metadata": {"user_id": '{"device_id":"d","account_uuid":"","session_id":"s"}'},
        **fields,
    }


async def post(caller: ApiUser, document: dict[str, Any], path: str = PATH, **headers: str) -> Reply:
    sent = HEADERS | caller.auth_headers | headers
    async with caller.http.post(path, json=document, headers=sent) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)


async def stream(caller: ApiUser, document: dict[str, Any]) -> tuple[Mapping[str, str], list[dict[str, Any]]]:
    async with caller.http.post(
        PATH, json=document | {"stream": True}, headers=HEADERS | caller.auth_headers
    ) as response:
        assert response.status == 200, await response.text()
        return response.headers, [event.document for event in events_in(await response.read())]


async def test_a_turn_reaches_anthropic_with_its_betas_and_without_the_hosted_tool(
    caller: ApiUser, upstream: Upstream
) -> None:
    document = turn(scripted(caller.marker, reasoning="Hm.", tool_call=CALL, usage=USAGE))
    headers, events = await stream(caller, document)
    kinds = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert kinds == ["thinking", "tool_use"]
    assert (events[-1]["type"], headers["X-Tollkeeper-Dropped"]) == ("message_stop", "web_search")
    (request,) = upstream.requests(caller.marker)
    assert request["headers"]["anthropic-beta"] == BETAS
    assert "x-claude-code-session-id" not in request["headers"]
    expected = document | {"tools": document["tools"][:2], "model": "claude-3-5-haiku-20241022", "stream": True}
    expected["metadata"] = request["body"]["metadata"]
    assert request["body"] == expected
    assert len(request["body"]["metadata"]["user_id"]) == 64
    assert await cost_of_all(caller, 1) == 24


async def test_a_turn_on_a_model_of_another_wire_drops_what_it_has_no_word_for(
    caller: ApiUser, upstream: Upstream
) -> None:
    """The model gets the deferred tool at once: it could not search for it."""
    prompt = scripted(caller.marker, tool_call=CALL, usage=USAGE)
    reply = await post(caller, turn(prompt, model=AT_OPENAI, output_config=None))
    assert reply.status == 200, reply
    assert [block["type"] for block in reply.body["content"]] == ["tool_use"]
    dropped = {"web_search", "context_management", "anthropic-beta"}
    assert set(reply.headers["X-Tollkeeper-Dropped"].split(", ")) == dropped
    (request,) = upstream.requests(caller.marker)
    assert [tool["function"]["name"] for tool in request["body"]["tools"]] == ["get_weather", "mcp__docs__search"]
    assert "anthropic-beta" not in request["headers"]


@pytest.mark.parametrize("model", [AT_ANTHROPIC, AT_OPENAI])
async def test_a_replayed_turn_with_thinking_a_reference_and_hosted_results_is_answered(
    caller: ApiUser, upstream: Upstream, model: str
) -> None:
    """A tool that the model searched for is referred to in the result of the client's own search."""
    history = [
        {"role": "user", "content": [{"type": "text", "text": f"{caller.marker} Look it up."}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"},
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "sky"}},
                {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
                {"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {"query": "docs"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "tool_reference", "tool_name": "mcp__docs__search"}],
                },
                {"type": "text", "text": scripted(caller.marker, answer=ANSWER, usage=USAGE)},
            ],
        },
    ]
    reply = await post(caller, turn("", model=model, messages=history, output_config=None))
    assert reply.status == 200, reply
    assert "server_tool_use" in reply.headers["X-Tollkeeper-Dropped"].split(", ")
    (request,) = upstream.requests(caller.marker)
    assert "srvtoolu_1" not in json.dumps(request["body"])
    assert "mcp__docs__search" in json.dumps(request["body"]["messages"])


@pytest.mark.parametrize("model", [AT_ANTHROPIC, AT_OPENAI])
async def test_the_meter_of_the_context_counts_the_same_body(caller: ApiUser, upstream: Upstream, model: str) -> None:
    document = turn(f"{caller.marker} hello", model=model)
    del document["max_tokens"]
    reply = await post(caller, document, "/v1/messages/count_tokens?beta=true")
    assert reply.status == 200, reply
    assert reply.body["input_tokens"] > 50
    assert upstream.requests(caller.marker) == await caller.charges() == []


async def test_a_beta_that_changes_a_price_is_not_sent_and_a_header_says_so(
    caller: ApiUser, upstream: Upstream
) -> None:
    document = turn(scripted(caller.marker, usage=USAGE), tools=[])
    reply = await post(caller, document, **{"anthropic-beta": f"context-1m-2025-08-07,{BETAS}"})
    assert (reply.status, reply.headers["X-Tollkeeper-Dropped"]) == (200, "anthropic-beta")
    (request,) = upstream.requests(caller.marker)
    assert request["headers"]["anthropic-beta"] == BETAS


async def test_what_writes_tokens_without_a_limit_is_refused(caller: ApiUser) -> None:
    for management in ({"edits": [{"type": "compact_20260112"}]}, {"edits": [*CLEARING["edits"], {"type": "new"}]}):
        reply = await post(caller, turn("hi", context_management=management))
        assert (reply.status, reply.body["error"]["type"]) == (400, "invalid_request_error"), reply
    choice = {"type": "tool", "name": "web_search"}
    reply = await post(caller, turn("hi", tool_choice=choice))
    assert (reply.status, reply.headers["X-Error-Code"]) == (400, "unsupported_parameter")


async def test_a_cache_for_an_hour_costs_twice_the_input(caller: ApiUser, upstream: Upstream) -> None:
    usage = {"input": 100_015, "output": 9, "cache_write": 100_000}
    costs = []
    for control in ({"type": "ephemeral"}, HOUR):
        text = {"type": "text", "text": scripted(caller.marker, usage=usage)}
        message = {"role": "user", "content": [text | {"cache_control": control}]}
        reply = await post(caller, turn("", messages=[message]))
        assert reply.status == 200, reply
        costs.append((await caller.charges())[0]["cost_usd"])
    # USD 0.80 a million input tokens, 1.00 a million written for 5 minutes, and 4.00 a million output tokens
    assert [float(cost) for cost in costs] == [0.100048, 0.160048]
    assert upstream.requests(caller.marker)[1]["body"]["messages"][0]["content"][0]["cache_control"] == HOUR


async def test_a_pdf_holds_the_context_window_and_is_charged_as_reported(
    sdk_server: Server, caller: ApiUser, upstream: Upstream
) -> None:
    data = base64.b64encode(b"%PDF-1.7 << /Type /Page >>").decode()
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}}

    def with_pdf(user: ApiUser, **fields: Any) -> dict[str, Any]:
        text = {"type": "text", "text": scripted(user.marker, usage=USAGE)}
        return turn("", messages=[{"role": "user", "content": [pdf, text]}], **fields)

    assert (await post(caller, with_pdf(caller))).status == 200
    assert upstream.requests(caller.marker)[0]["body"]["messages"][0]["content"][0] == pdf
    (charge,) = await caller.charges()
    assert charge["cost"] == 24
    assert (await post(caller, with_pdf(caller, model=AT_OPENAI, output_config=None))).status == 400
    counted = await post(caller, with_pdf(caller), "/v1/messages/count_tokens")
    assert 4_500 < counted.body["input_tokens"] < 5_500
    for limit, status in ((203_999, 429), (204_000, 200)):  # the model's window, and the output limit
        async with new_user(sdk_server, limit=limit) as user:
            assert (await post(user, with_pdf(user))).status == status


async def test_a_document_behind_a_url_is_refused(caller: ApiUser) -> None:
    linked = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    reply = await post(caller, turn("", messages=[{"role": "user", "content": [linked]}]))
    assert (reply.status, reply.headers["X-Error-Code"]) == (400, "unsupported_parameter")


@pytest.fixture
async def key(caller: ApiUser) -> str:
    return (await caller.with_api_key()).token


async def test_a_valid_credential_in_either_header_is_enough(caller: ApiUser, key: str) -> None:
    document = turn(scripted(caller.marker, usage=USAGE))
    for bearer, api_key in ((caller.token, "anything"), ("anything", key), (key, key), (caller.token, key)):
        reply = await post(caller, document, Authorization=f"Bearer {bearer}", **{"x-api-key": api_key})
        assert reply.status == 200, reply
        assert await _status_of_another_route(caller, bearer, api_key) == 200
    reply = await post(caller, document, Authorization="Bearer anything", **{"x-api-key": "anything"})
    assert (reply.status, reply.body["error"]["type"]) == (401, "authentication_error")


async def test_valid_credentials_of_two_users_are_refused(sdk_server: Server, caller: ApiUser) -> None:
    async with new_user(sdk_server) as other:
        reply = await post(caller, turn("hi"), **{"x-api-key": (await other.with_api_key()).token})
        assert reply.status == 401
        assert await _status_of_another_route(caller, caller.token, other.token) == 401


async def _status_of_another_route(caller: ApiUser, bearer: str, api_key: str) -> int:
    headers = {"Authorization": f"Bearer {bearer}", "x-api-key": api_key}
    async with caller.http.get("/v1/models", headers=headers) as response:
        return response.status


async def test_an_overflow_of_the_context_is_the_error_on_which_the_client_compacts(
    caller: ApiUser, upstream: Upstream
) -> None:
    error = {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}
    document = turn(scripted(caller.marker, status=400, json={"type": "error", "error": error}))
    reply = await post(caller, document)
    assert (reply.status, reply.body["error"]["type"]) == (400, "invalid_request_error")
    assert reply.body["error"]["message"] == "prompt is too long: 210000 tokens > 200000 maximum"
    assert (await caller.quota())["used"] == 0


async def test_a_repeated_request_names_again_what_was_dropped(caller: ApiUser, upstream: Upstream) -> None:
    document = turn(scripted(caller.marker, chunks=CHUNKS, usage=USAGE))
    for _ in range(2):
        reply = await post(caller, document, **{"Idempotency-Key": f"key-{caller.marker}"})
        assert (reply.status, reply.headers["X-Tollkeeper-Dropped"]) == (200, "web_search")
    assert (reply.headers["Idempotent-Replayed"], len(upstream.requests(caller.marker))) == ("true", 1)
