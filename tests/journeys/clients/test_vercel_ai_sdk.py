"""The requests of the Vercel AI SDK's providers with their default fields, on models of each wire."""

from typing import Any

import pytest

from journeys.clients.samples import ANSWER, USAGE, WEATHER, cost_of_all
from journeys.support.client_formats import events_in
from journeys.support.users import ApiUser
from journeys.upstream.handle import scripted

FUNCTION = {"name": "get_weather", "description": "Tells.", "parameters": WEATHER, "strict": False}
CHAT: dict[str, Any] = {
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "auto",
    "stream_options": {"include_usage": True},
}
RESPONSES: dict[str, Any] = {
    "tools": [FUNCTION | {"type": "function"}, {"type": "web_search"}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "store": False,
    "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
}
MESSAGES: dict[str, Any] = {
    "max_tokens": 4096,
    "system": [{"type": "text", "text": "Be brief."}],
    "tools": [{"name": "get_weather", "description": "Tells.", "input_schema": WEATHER}],
    "tool_choice": {"type": "auto"},
}


@pytest.mark.parametrize("model", ["gpt-4o-mini", "at-anthropic"])
@pytest.mark.parametrize(
    ("path", "fields", "dropped"),
    [
        ("/v1/chat/completions", CHAT, None),
        ("/v1/responses", RESPONSES, "web_search, include"),
        ("/v1/messages", MESSAGES, "anthropic-beta"),
    ],
)
async def test_a_streamed_text_with_tools_is_answered(
    caller: ApiUser, model: str, path: str, fields: dict[str, Any], dropped: str | None
) -> None:
    content = scripted(caller.marker, answer=ANSWER, usage=USAGE)
    parts = [{"type": "input_text" if path == "/v1/responses" else "text", "text": content}]
    input_name = "input" if path == "/v1/responses" else "messages"
    document = {"model": model, input_name: [{"role": "user", "content": parts}], "stream": True, **fields}
    headers = caller.auth_headers | {"anthropic-beta": "fine-grained-tool-streaming-2025-05-14"}
    async with caller.http.post(path, json=document, headers=headers) as response:
        assert response.status == 200, await response.text()
        is_passed = path == "/v1/messages" and model == "at-anthropic"
        assert response.headers.get("X-Tollkeeper-Dropped") == (None if is_passed else dropped)
        text = "".join(event.data for event in events_in(await response.read()))
    assert all(word in text for word in ANSWER.split())
    assert await cost_of_all(caller, 1) == 24


async def test_a_hosted_tool_on_the_chat_wire_is_dropped_with_a_header(caller: ApiUser) -> None:
    document = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": scripted(caller.marker, answer=ANSWER, usage=USAGE)}],
        "tools": [*CHAT["tools"], {"type": "web_search"}],
        "verbosity": "low",
    }
    for model, dropped in (("gpt-4o-mini", "web_search"), ("at-anthropic", "web_search, verbosity")):
        async with caller.http.post(
            "/v1/chat/completions", json=document | {"model": model}, headers=caller.auth_headers
        ) as response:
            assert (response.status, response.headers.get("X-Tollkeeper-Dropped")) == (200, dropped)
