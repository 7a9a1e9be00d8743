"""Tool calls that only their ids tell apart, that finish with `stop`, or that only the end of a stream tells."""

import json
from typing import Any

import pytest

from journeys.support.compat_requests import CHAT_PATH, MESSAGES_PATH, events, post, user_messages
from journeys.support.provider_wires import CHAT, MESSAGES, RESPONSES
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import scripted

pytestmark = pytest.mark.prove_only_on_postgres

EVENT_STREAM = {"Content-Type": "text/event-stream"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
CALLS = {"get_weather": '{"city":"Oslo"}', "get_time": '{"tz":"UTC"}'}


def sse_prompt(marker: str, *documents: dict[str, Any]) -> str:
    raw = "".join(f"data: {json.dumps(one)}\n\n" for one in documents)
    return scripted(marker, raw=raw + "data: [DONE]\n\n", headers=EVENT_STREAM)


def chunk(delta: dict[str, Any] | None, finish: str | None = None, index: int | None = 0) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


async def test_parallel_calls_with_equal_indexes_or_none_are_several_calls(all_wires_server: Server) -> None:
    for index in ({"index": 0}, {"index": None}, {}):
        pieces = [
            index | {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in CALLS.items()
        ]
        chunks = [*(chunk({"tool_calls": [one]}) for one in pieces), chunk({}, "stop")]
        async with new_user(all_wires_server) as caller:
            prompt = sse_prompt(caller.marker, *chunks, {"choices": [], "usage": USAGE})
            assert await events(caller, CHAT_PATH, model=CHAT.model, **user_messages(prompt)) == chunks
            told = await events(caller, MESSAGES_PATH, model=CHAT.model, max_tokens=50, **user_messages(prompt))
            blocks = [one["content_block"] for one in told if one["type"] == "content_block_start"]
            assert [(one["id"], one["name"]) for one in blocks] == [(f"call_{name}", name) for name in CALLS]
            deltas = [one["delta"] for one in told if one["type"] == "content_block_delta"]
            assert [one["partial_json"] for one in deltas] == list(CALLS.values())
            (end,) = [one["delta"] for one in told if one["type"] == "message_delta"]
            assert end["stop_reason"] == "tool_use"
            charges = await caller.charges()
        assert [(one["basis"], one["cost"]) for one in charges] == [("provider", 15)] * 2


async def test_odd_chunks_pass_unchanged_and_are_translated_as_far_as_they_can_be(all_wires_server: Server) -> None:
    called = {"index": None, "id": "c", "function": {"name": "f", "arguments": {"x": 1}}}
    chunks = [
        chunk({"content": "He"}, index=None),
        chunk({"content": "llo", "reasoning": {"effort": "low"}}),
        {"id": "c1", "choices": None},
        {"type": "ping"},
        chunk(None),
        chunk({"tool_calls": [called]}),
        chunk({}, "stop"),
    ]
    async with new_user(all_wires_server) as caller:
        prompt = sse_prompt(caller.marker, *chunks, {"choices": [], "usage": USAGE})
        assert await events(caller, CHAT_PATH, model=CHAT.model, **user_messages(prompt)) == chunks
        told = await events(caller, MESSAGES_PATH, model=CHAT.model, max_tokens=50, **user_messages(prompt))
        deltas = [one["delta"] for one in told if one["type"] == "content_block_delta"]
        assert [one.get("text", one.get("partial_json")) for one in deltas] == ["He", "llo", '{"x":1}']
        charges = await caller.charges()
    assert [(one["basis"], one["cost"]) for one in charges] == [("provider", 15)] * 2


async def test_a_finish_reason_beside_tool_calls_says_so_on_each_wire(all_wires_server: Server) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    completion = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}
    block = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    usage = {"input_tokens": 10, "output_tokens": 5}
    answer = {"type": "message", "content": [block], "stop_reason": "end_turn", "usage": usage}
    async with new_user(all_wires_server) as caller:
        asked = user_messages(scripted(caller.marker, json=completion))
        reply = await post(caller, MESSAGES_PATH, model=CHAT.model, max_tokens=50, **asked)
        assert (reply.body["stop_reason"], reply.body["content"]) == ("tool_use", [block])
        reply = await post(
            caller, CHAT_PATH, model=MESSAGES.model, **user_messages(scripted(caller.marker, json=answer))
        )
        assert reply.body["choices"][0]["finish_reason"] == "tool_calls"


async def test_what_only_the_end_of_a_response_tells_is_translated(all_wires_server: Server) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5}
    calls = [
        {"type": "function_call", "id": f"fc_{name}", "call_id": f"call_{name}", "name": name, "arguments": arguments}
        for name, arguments in CALLS.items()
    ]
    text = {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}
    documents: list[dict[str, Any]] = [
        *({"type": "response.output_item.added", "output_index": 0, "item": one | {"arguments": ""}} for one in calls),
        {"type": "response.completed", "response": {"output": [text, *calls], "usage": usage}},
    ]
    async with new_user(all_wires_server) as caller:
        prompt = sse_prompt(caller.marker, *documents)
        told = await events(caller, CHAT_PATH, model=RESPONSES.model, **user_messages(prompt))
        deltas = [one["choices"][0]["delta"] for one in told if one["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == "Hello"
        pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
        told_calls = {
            piece["function"]["name"]: "".join(
                one["function"]["arguments"] for one in pieces if one["index"] == piece["index"]
            )
            for piece in pieces
            if "id" in piece
        }
        assert told_calls == CALLS
        (charge,) = await caller.charges()
    assert (charge["basis"], charge["cost"]) == ("provider", 15)
