"""What a request asks and an answer says beyond text survives on the way from one wire to another."""

import json
from typing import Any

import pytest

from journeys.support.compat_requests import (
    CHAT_DOOR,
    MESSAGES_DOOR,
    RESPONSES_DOOR,
    answering,
    asked,
    assert_refused,
    events,
    post,
)
from journeys.support.custom_tool_calls import CALLED, CALLING, SAID, assert_counted, pieces
from journeys.support.provider_wires import CHAT, MESSAGES, OLLAMA, RESPONSES
from journeys.support.server import Server
from journeys.support.users import person
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.exhaustive_on_postgres

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
GRAMMAR = {"syntax": "regex", "definition": "select .*"}
CHAT_FORMAT = {"type": "grammar", "grammar": GRAMMAR}
CHAT_TOOL: dict[str, Any] = {"type": "custom", "custom": {"name": "sql", "description": "Asks.", "format": CHAT_FORMAT}}
RESPONSES_TOOL = {"type": "custom", "name": "sql", "description": "Asks.", "format": {"type": "grammar"} | GRAMMAR}
BEFORE = {"id": "c0", "type": "custom", "custom": {"name": "sql", "input": "select 0"}}
ITEM = {"type": "custom_tool_call", "call_id": "c0", "name": "sql", "input": "select 0"}


async def test_a_custom_tool_of_a_response_is_called_on_the_chat_wire(doors: Server, upstream: Upstream) -> None:
    for streaming in (False, True):
        async with person(doors) as caller:
            prompt = answering(caller.marker, *CALLING, finish="tool_calls", whole=None if streaming else CALLED)
            question: dict[str, Any] = {
                "model": CHAT.model,
                "input": [ITEM, {"type": "custom_tool_call_output", "call_id": "c0", "output": "0"}, prompt_of(prompt)],
                "tools": [RESPONSES_TOOL],
                "tool_choice": {"type": "custom", "name": "sql"},
            }
            if streaming:
                heard = await events(caller, RESPONSES_DOOR, **question)
                told = [one["delta"] for one in heard if one["type"] == "response.custom_tool_call_input.delta"]
                assert "".join(told) == SAID
                (item,) = heard[-1]["response"]["output"]
            else:
                (item,) = (await post(caller, RESPONSES_DOOR, **question)).body["output"]
            assert (item["type"], item["call_id"], item["name"], item["input"]) == (
                "custom_tool_call",
                "c1",
                "sql",
                SAID,
            )
            (seen,) = upstream.seen(caller.marker)
            body = seen["body"]
            assert (seen["path"], body["tools"]) == (CHAT.path, [CHAT_TOOL])
            assert body["tool_choice"] == {"type": "custom", "custom": {"name": "sql"}}
            called, result, _ = body["messages"]
            assert called["tool_calls"] == [BEFORE]
            assert result == {"role": "tool", "tool_call_id": "c0", "content": "0"}
            await assert_counted(caller, f"sql{SAID}")


async def test_a_custom_tool_of_a_chat_is_called_on_the_responses_wire(doors: Server, upstream: Upstream) -> None:
    item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "sql", "input": SAID}
    whole = {"id": "r", "object": "response", "status": "completed", "output": [item]}
    said: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"input": ""}},
        *({"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": one} for one in pieces(SAID)),
        {"type": "response.custom_tool_call_input.done", "output_index": 0, "input": SAID},
        {"type": "response.completed", "response": whole},
    ]
    raw = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in said)
    for streaming in (False, True):
        async with person(doors) as caller:
            script: dict[str, Any] = {"raw": raw, "headers": {"Content-Type": "text/event-stream"}}
            prompt = scripted(caller.marker, **(script if streaming else {"json": whole}))
            question: dict[str, Any] = {
                "model": RESPONSES.model,
                "messages": [
                    {"role": "assistant", "tool_calls": [BEFORE]},
                    {"role": "tool", "tool_call_id": "c0", "content": "0"},
                    {"role": "user", "content": prompt},
                ],
                "tools": [CHAT_TOOL],
                "tool_choice": {"type": "custom", "custom": {"name": "sql"}},
            }
            if streaming:
                heard = await events(caller, CHAT_DOOR, **question)
                told = [one for chunk in heard for one in chunk["choices"][0]["delta"].get("tool_calls", ())]
                assert [(one["id"], one["type"], one["custom"]["name"]) for one in told[:1]] == [
                    ("c1", "custom", "sql")
                ]
                assert "".join(one["custom"]["input"] for one in told) == SAID
                assert heard[-1]["choices"][0]["finish_reason"] == "tool_calls"
            else:
                choice = (await post(caller, CHAT_DOOR, **question)).body["choices"][0]
                assert choice["message"]["tool_calls"] == CALLED["tool_calls"]
            (seen,) = upstream.seen(caller.marker)
            body = seen["body"]
            assert (seen["path"], body["tools"]) == (RESPONSES.path, [RESPONSES_TOOL])
            assert body["tool_choice"] == {"type": "custom", "name": "sql"}
            assert body["input"][:2] == [ITEM, {"type": "custom_tool_call_output", "call_id": "c0", "output": "0"}]
            await assert_counted(caller, f"sql{SAID}")


async def test_a_custom_tool_is_refused_where_the_providers_wire_has_none(doors: Server, upstream: Upstream) -> None:
    async with person(doors) as caller:
        for wire in (MESSAGES, OLLAMA):
            reply = await post(caller, CHAT_DOOR, model=wire.model, tools=[CHAT_TOOL], **asked(caller.marker))
            assert_refused(reply, "tools")
            reply = await post(caller, RESPONSES_DOOR, model=wire.model, tools=[RESPONSES_TOOL], input=caller.marker)
            assert_refused(reply, "tools")
        assert (await caller.charges(), upstream.seen(caller.marker)) == ([], [])


async def test_reasoning_of_a_whole_answer_survives_as_a_streams_does(doors: Server) -> None:
    async with person(doors) as caller:
        whole = answering(caller.marker, whole={"content": "Yes.", "reasoning": SAID})
        streamed = answering(caller.marker, {"reasoning": SAID}, {"content": "Yes."})
        reply = await post(caller, MESSAGES_DOOR, model=CHAT.model, max_tokens=100, **asked(whole))
        thought, text = reply.body["content"]
        assert (thought["type"], thought["thinking"], text["text"]) == ("thinking", SAID, "Yes.")
        heard = await events(caller, MESSAGES_DOOR, model=CHAT.model, max_tokens=100, **asked(streamed))
        assert [one["delta"]["thinking"] for one in heard if "thinking" in one.get("delta", {})] == [SAID]
        output = (await post(caller, RESPONSES_DOOR, model=CHAT.model, input=whole)).body["output"]
        *_, last = await events(caller, RESPONSES_DOOR, model=CHAT.model, input=streamed)
        for items in (output, last["response"]["output"]):
            assert [item["type"] for item in items] == ["reasoning", "message"]
            assert items[0]["summary"] == [{"type": "summary_text", "text": SAID}]


@pytest.mark.parametrize("strict", [{"strict": True}, {"strict": False}, {}], ids=["strict", "loose", "not said"])
async def test_how_strictly_a_schema_binds_is_carried_from_wire_to_wire(
    doors: Server, upstream: Upstream, strict: dict[str, bool]
) -> None:
    named = {"name": "weather", "description": "About it.", "schema": SCHEMA}
    for_chat = {"type": "json_schema", "json_schema": named | strict}
    for_responses = {"type": "json_schema"} | named | strict
    async with person(doors) as caller:
        for wire in (CHAT, RESPONSES):
            chatted = await post(
                caller, CHAT_DOOR, model=wire.model, response_format=for_chat, **asked(f"{caller.marker} chat")
            )
            responded = await post(
                caller, RESPONSES_DOOR, model=wire.model, text={"format": for_responses}, input=f"{caller.marker} other"
            )
            assert (chatted.status, responded.status) == (200, 200)
        bodies = [seen["body"] for seen in upstream.seen(caller.marker)]
        assert [body.get("response_format") for body in bodies] == [for_chat, for_chat, None, None]
        assert [body.get("text") for body in bodies[2:]] == [{"format": for_responses}] * 2


@pytest.mark.parametrize("strict", [True, False])
async def test_how_strictly_a_function_binds_is_carried_from_wire_to_wire(
    doors: Server, upstream: Upstream, *, strict: bool
) -> None:
    described = {"name": "f", "parameters": SCHEMA, "strict": strict}
    for_chat, for_responses = {"type": "function", "function": described}, {"type": "function"} | described
    async with person(doors) as caller:
        await post(caller, CHAT_DOOR, model=RESPONSES.model, tools=[for_chat], **asked(caller.marker))
        await post(caller, RESPONSES_DOOR, model=CHAT.model, tools=[for_responses], input=caller.marker)
        first, second = upstream.seen(caller.marker)
        assert (first["body"]["tools"], second["body"]["tools"]) == ([for_responses], [for_chat])


def prompt_of(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


LAST_WORDS = "I must not say."


async def test_a_refusal_that_comes_with_the_end_is_heard_on_every_wire(doors: Server) -> None:
    """Anthropic explains a refusal where it says why it stops."""
    details = {"type": "refusal", "category": None, "explanation": LAST_WORDS}
    begun: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "c",
        "content": [],
        "stop_reason": None,
    }
    said: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun | {"usage": {"input_tokens": 10, "output_tokens": 1}}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "refusal", "stop_details": details},
            "usage": {"output_tokens": 4},
        },
        {"type": "message_stop"},
    ]
    raw = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in said)
    async with person(doors) as caller:
        prompt = scripted(caller.marker, raw=raw, headers={"Content-Type": "text/event-stream"})
        heard = await events(caller, CHAT_DOOR, model=MESSAGES.model, **asked(prompt))
        refusals = [one["choices"][0]["delta"].get("refusal") for one in heard if one["choices"]]
        assert "".join(refusal or "" for refusal in refusals) == LAST_WORDS
        heard = await events(caller, RESPONSES_DOOR, model=MESSAGES.model, input=prompt)
        assert LAST_WORDS in [one["delta"] for one in heard if one["type"] == "response.refusal.delta"]
        assert {(charge["cost"], charge["basis"]) for charge in await caller.charges()} == {(14, "provider")}


async def test_words_and_calls_in_ollamas_last_line_are_heard(doors: Server) -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}
    lines: list[dict[str, Any]] = [
        {"model": "m", "message": {"role": "assistant", "content": "one "}, "done": False},
        {"model": "m", "message": {"role": "assistant", "content": "two", "tool_calls": [call]}} | end,
    ]
    raw = "".join(json.dumps(line) + "\n" for line in lines)
    async with person(doors) as caller:
        prompt = scripted(caller.marker, raw=raw, headers={"Content-Type": "application/x-ndjson"})
        heard = await events(caller, CHAT_DOOR, model=OLLAMA.model, **asked(prompt))
        deltas = [one["choices"][0]["delta"] for one in heard if one["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == "one two"
        (called,) = [delta["tool_calls"][0]["function"] for delta in deltas if delta.get("tool_calls")]
        assert (called["name"], json.loads(called["arguments"])) == ("f", {"a": 1})
        (charge,) = await caller.charges()
        assert (charge["cost"], charge["basis"]) == (5, "provider")


FUNCTIONS: list[dict[str, Any]] = [{"name": name, "parameters": SCHEMA} for name in ("find", "pick")]
FORCING: dict[str, dict[str, dict[str, Any]]] = {
    CHAT_DOOR: {
        "named": {"tool_choice": {"type": "function", "function": {"name": "pick"}}, "parallel_tool_calls": False},
        "any": {"tool_choice": "required", "parallel_tool_calls": False},
    },
    RESPONSES_DOOR: {
        "named": {"tool_choice": {"type": "function", "name": "pick"}, "parallel_tool_calls": False},
        "any": {"tool_choice": "required", "parallel_tool_calls": False},
    },
    MESSAGES_DOOR: {
        "named": {"tool_choice": {"type": "tool", "name": "pick", "disable_parallel_tool_use": True}},
        "any": {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
    },
}


@pytest.mark.parametrize("path", FORCING)
@pytest.mark.parametrize(("choice", "offered"), [("named", ["pick"]), ("any", ["find", "pick"])])
async def test_a_tool_that_must_be_called_is_what_a_model_of_ollamas_is_offered(
    doors: Server, upstream: Upstream, path: str, choice: str, offered: list[str]
) -> None:
    """Its wire has no field for a choice, nor for one call at a time, and its own compatible endpoint ignores both."""
    async with person(doors) as caller:
        prompt = scripted(caller.marker, tool_call={"name": "pick", "arguments": {"a": "b"}})
        question: dict[str, Any] = {"model": OLLAMA.model} | FORCING[path][choice]
        match path:
            case "/v1/chat/completions":
                question |= asked(prompt) | {"tools": [{"type": "function", "function": one} for one in FUNCTIONS]}
            case "/v1/responses":
                question |= {"input": prompt, "tools": [{"type": "function"} | one for one in FUNCTIONS]}
            case _:
                tools = [{"name": one["name"], "input_schema": SCHEMA} for one in FUNCTIONS]
                question |= asked(prompt) | {"tools": tools, "max_tokens": 100}
        reply = await post(caller, path, **question)
        assert reply.status == 200, reply
        assert _called(path, reply.body) == ("pick", {"a": "b"})
        assert await events(caller, path, **question)
        for seen in upstream.seen(caller.marker):
            assert seen["path"] == OLLAMA.path
            assert [tool["function"]["name"] for tool in seen["body"]["tools"]] == offered
            assert {"tool_choice", "parallel_tool_calls"}.isdisjoint(seen["body"])
        assert [charge["state"] for charge in await caller.charges()] == ["settled", "settled"]


def _called(path: str, answer: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The one tool called in a whole answer, and with what."""
    if path == MESSAGES_DOOR:
        (block,) = answer["content"]
        return block["name"], block["input"]
    if path == RESPONSES_DOOR:
        (call,) = answer["output"]
    else:
        (call,) = (one["function"] for one in answer["choices"][0]["message"]["tool_calls"])
    return call["name"], json.loads(call["arguments"])


async def test_what_a_models_wire_cannot_say_is_refused_by_the_name_that_the_caller_knows(doors: Server) -> None:
    async with person(doors) as caller:
        question = asked("hi") | {"max_tokens": 9}
        for model, given, name in (
            (RESPONSES.model, {"stop_sequences": ["END"]}, "stop_sequences"),
            (OLLAMA.model, {"output_config": {"effort": "max"}}, "output_config.effort"),
            (RESPONSES.model, {"stop": ["END"]}, "stop"),
        ):
            reply = await post(caller, MESSAGES_DOOR, model=model, **question, **given)
            assert (reply.status, reply.headers["X-Error-Code"]) == (400, "unsupported_parameter"), reply
            assert reply.body["error"]["message"].startswith(f"{name} is not supported here"), reply
        reply = await post(caller, CHAT_DOOR, model=RESPONSES.model, stop="END", **asked("hi"))
        assert_refused(reply, "stop")
        assert await caller.charges() == []
