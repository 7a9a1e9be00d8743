"""Codex CLI's requests to the responses endpoint, on a model of that wire and on one of Anthropic's.

The bodies are written after OpenAI's reference of the responses API and the reports of what Codex sends.
"""

import json
from typing import Any

import pytest

from journeys.clients.samples import ANSWER, USAGE, WEATHER, cost_of_all
from journeys.support.client_formats import events_in
from journeys.support.users import ApiUser
from journeys.upstream.handle import Upstream, scripted

AT_ANTHROPIC, AT_OPENAI = "at-anthropic", "gpt-4o-mini"
HEADERS = {
    "originator": "codex_cli_rs",
    "session_id": "00000000-0000-0000-0000-000000000000",
    "x-codex-turn-metadata": "{}",
    "User-Agent": "codex_cli_rs/0.147.0",
    "Accept": "text/event-stream",
}
LOOKUP: dict[str, Any] = {
    "type": "function",
    "name": "lookup",
    "description": "Looks up.",
    "parameters": WEATHER,
    "strict": False,
}
DOCS: dict[str, Any] = {"type": "namespace", "name": "mcp__docs", "description": "Docs.", "tools": [LOOKUP]}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "shell", "description": "Runs.", "parameters": WEATHER, "strict": False},
    {"type": "web_search", "external_web_access": False},
    DOCS,
    {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": WEATHER},
]


def turn(prompt: str, model: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": model,
        "instructions": "You help with code.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be careful."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": prompt}]},
        ],
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "00000000-0000-0000-0000-000000000000",
        "text": {"verbosity": "low"},
        "client_metadata": {"x-codex-installation-id": "0"},
        **fields,
    }


async def stream(caller: ApiUser, document: dict[str, Any]) -> tuple[set[str], list[dict[str, Any]]]:
    """The names in the header, and the events."""
    headers = HEADERS | caller.auth_headers
    async with caller.http.post("/v1/responses", json=document, headers=headers) as response:
        assert response.status == 200, await response.text()
        events = [event.document for event in events_in(await response.read())]
        return set(response.headers.get("X-Tollkeeper-Dropped", "").split(", ")), events


@pytest.mark.parametrize(
    ("model", "dropped"),
    [
        (AT_OPENAI, {"client_metadata", "web_search"}),
        (AT_ANTHROPIC, {"client_metadata", "web_search", "tool_search", "text.verbosity"}),
    ],
)
async def test_a_turn_is_answered_and_the_header_names_what_was_not_sent(
    caller: ApiUser, upstream: Upstream, model: str, dropped: set[str]
) -> None:
    names, events = await stream(caller, turn(scripted(caller.marker, answer=ANSWER, usage=USAGE), model))
    assert names == dropped
    assert events[-1]["type"] == "response.completed"
    assert await cost_of_all(caller, 1) == 24
    (request,) = upstream.requests(caller.marker)
    sent = request["body"]
    if model == AT_OPENAI:
        assert sent["tools"] == [tool for tool in TOOLS if tool["type"] != "web_search"]
        assert sent["text"] == {"verbosity": "low"}
        assert "client_metadata" not in sent
    else:
        assert [tool["name"] for tool in sent["tools"]] == ["shell", "mcp__docs__lookup"]


async def test_a_tool_of_a_namespace_is_called_and_its_result_answered_on_another_wire(
    caller: ApiUser, upstream: Upstream
) -> None:
    call = {"name": "mcp__docs__lookup", "arguments": {"city": "Oslo"}}
    prompt = scripted(caller.marker, answer=ANSWER, tool_call=call, usage=USAGE)
    _, events = await stream(caller, turn(prompt, AT_ANTHROPIC))
    (item,) = [one for one in events[-1]["response"]["output"] if one["type"] == "function_call"]
    assert (item["namespace"], item["name"]) == ("mcp__docs", "lookup")
    second = turn(prompt, AT_ANTHROPIC)
    second["input"] += [
        {name: item[name] for name in ("type", "namespace", "name", "arguments", "call_id")},
        {"type": "function_call_output", "call_id": item["call_id"], "output": "20 degrees"},
    ]
    _, events = await stream(caller, second)
    assert events[-1]["type"] == "response.completed"
    blocks = [
        block for message in upstream.requests(caller.marker)[1]["body"]["messages"] for block in message["content"]
    ]
    assert [block["name"] for block in blocks if isinstance(block, dict) and block["type"] == "tool_use"] == [
        "mcp__docs__lookup"
    ]


REPLAYED: list[dict[str, Any]] = [
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "gAAAA"},
    {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "sky"}},
    {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin Patch"},
    {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done."},
    {"type": "tool_search_call", "call_id": "c2", "execution": "client", "arguments": {"query": "docs"}},
    {"type": "tool_search_output", "call_id": "c2", "execution": "client", "status": "completed", "tools": [DOCS]},
    {"type": "agent_message", "author": "/root/a", "content": [{"type": "input_text", "text": "I am done."}]},
    {"type": "compaction", "encrypted_content": "gAAAA"},
]


@pytest.mark.parametrize("model", [AT_OPENAI, AT_ANTHROPIC])
async def test_replayed_items_are_accepted(caller: ApiUser, upstream: Upstream, model: str) -> None:
    document = turn(scripted(caller.marker, answer=ANSWER, usage=USAGE), model)
    replayed = [item for item in REPLAYED if model == AT_OPENAI or not item["type"].startswith("custom_")]
    document["input"][1:1] = replayed
    names, events = await stream(caller, document)
    assert events[-1]["type"] == "response.completed"
    (request,) = upstream.requests(caller.marker)
    if model == AT_OPENAI:
        assert [item["type"] for item in request["body"]["input"][1:-1]] == [item["type"] for item in replayed]
    else:
        assert names >= {"web_search_call", "tool_search_call", "tool_search_output", "compaction"}
        assert "I am done." in json.dumps(request["body"])


async def test_an_overflow_of_the_context_is_the_error_on_which_the_client_compacts(caller: ApiUser) -> None:
    error = {"message": "Too long.", "type": "invalid_request_error", "code": "context_length_exceeded"}
    document = turn(scripted(caller.marker, status=400, json={"error": error}), AT_OPENAI)
    async with caller.http.post("/v1/responses", json=document, headers=HEADERS | caller.auth_headers) as response:
        refused = await response.json()
    assert (response.status, refused["error"]["code"]) == (400, "context_length_exceeded")
    assert (await caller.quota())["used"] == 0
