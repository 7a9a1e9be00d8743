"""Translation between wire formats keeps what is not text: custom tools, reasoning, schemas, refusals, tool choices."""

import json
from typing import Any

import pytest

from journeys.support.compat_requests import (
    CHAT_PATH,
    MESSAGES_PATH,
    RESPONSES_PATH,
    answer_prompt,
    assert_refused,
    events,
    post,
    user_messages,
)
from journeys.support.custom_tool_calls import DELTAS, MESSAGE, TEXT, assert_output_counted, pieces
from journeys.support.provider_wires import CHAT, MESSAGES, OLLAMA, RESPONSES
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.prove_only_on_postgres

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
GRAMMAR = {"syntax": "regex", "definition": "select .*"}
CHAT_FORMAT = {"type": "grammar", "grammar": GRAMMAR}
CHAT_TOOL: dict[str, Any] = {"type": "custom", "custom": {"name": "sql", "description": "Asks.", "format": CHAT_FORMAT}}
RESPONSES_TOOL = {"type": "custom", "name": "sql", "description": "Asks.", "format": {"type": "grammar"} | GRAMMAR}
EARLIER_CALL = {"id": "c0", "type": "custom", "custom": {"name": "sql", "input": "select 0"}}
EARLIER_ITEM = {"type": "custom_tool_call", "call_id": "c0", "name": "sql", "input": "select 0"}


async def test_a_custom_tool_of_the_responses_endpoint_is_called_on_the_chat_wire(
    all_wires_server: Server, upstream: Upstream
) -> None:
    for streaming in (False, True):
        async with new_user(all_wires_server) as caller:
            prompt = answer_prompt(caller.marker, *DELTAS, finish="tool_calls", whole=None if streaming else MESSAGE)
            query: dict[str, Any] = {
                "model": CHAT.model,
                "input": [
                    EARLIER_ITEM,
                    {"type": "custom_tool_call_output", "call_id": "c0", "output": "0"},
                    user_item(prompt),
                ],
                "tools": [RESPONSES_TOOL],
                "tool_choice": {"type": "custom", "name": "sql"},
            }
            if streaming:
                received = await events(caller, RESPONSES_PATH, **query)
                deltas = [one["delta"] for one in received if one["type"] == "response.custom_tool_call_input.delta"]
                assert "".join(deltas) == TEXT
                (item,) = received[-1]["response"]["output"]
            else:
                (item,) = (await post(caller, RESPONSES_PATH, **query)).body["output"]
            assert (item["type"], item["call_id"], item["name"], item["input"]) == (
                "custom_tool_call",
                "c1",
                "sql",
                TEXT,
            )
            (request,) = upstream.requests(caller.marker)
            body = request["body"]
            assert (request["path"], body["tools"]) == (CHAT.path, [CHAT_TOOL])
            assert body["tool_choice"] == {"type": "custom", "custom": {"name": "sql"}}
            called, result, _ = body["messages"]
            assert called["tool_calls"] == [EARLIER_CALL]
            assert result == {"role": "tool", "tool_call_id": "c0", "content": "0"}
            await assert_output_counted(caller, f"sql{TEXT}")


async def test_a_custom_tool_of_the_chat_endpoint_is_called_on_the_responses_wire(
    all_wires_server: Server, upstream: Upstream
) -> None:
    item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "sql", "input": TEXT}
    whole = {"id": "r", "object": "response", "status": "completed", "output": [item]}
    stream_events: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"input": ""}},
        *({"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": one} for one in pieces(TEXT)),
        {"type": "response.custom_tool_call_input.done", "output_index": 0, "input": TEXT},
        {"type": "response.completed", "response": whole},
    ]
    raw = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in stream_events)
    for streaming in (False, True):
        async with new_user(all_wires_server) as caller:
            script: dict[str, Any] = {"raw": raw, "headers": {"Content-Type": "text/event-stream"}}
            prompt = scripted(caller.marker, **(script if streaming else {"json": whole}))
            query: dict[str, Any] = {
                "model": RESPONSES.model,
                "messages": [
                    {"role": "assistant", "tool_calls": [EARLIER_CALL]},
                    {"role": "tool", "tool_call_id": "c0", "content": "0"},
                    {"role": "user", "content": prompt},
                ],
                "tools": [CHAT_TOOL],
                "tool_choice": {"type": "custom", "custom": {"name": "sql"}},
            }
            if streaming:
                received = await events(caller, CHAT_PATH, **query)
                deltas = [one for chunk in received for one in chunk["choices"][0]["delta"].get("tool_calls", ())]
                assert [(one["id"], one["type"], one["custom"]["name"]) for one in deltas[:1]] == [
                    ("c1", "custom", "sql")
                ]
                assert "".join(one["custom"]["input"] for one in deltas) == TEXT
                assert received[-1]["choices"][0]["finish_reason"] == "tool_calls"
            else:
                choice = (await post(caller, CHAT_PATH, **query)).body["choices"][0]
                assert choice["message"]["tool_calls"] == MESSAGE["tool_calls"]
            (request,) = upstream.requests(caller.marker)
            body = request["body"]
            assert (request["path"], body["tools"]) == (RESPONSES.path, [RESPONSES_TOOL])
            assert body["tool_choice"] == {"type": "custom", "name": "sql"}
            assert body["input"][:2] == [
                EARLIER_ITEM,
                {"type": "custom_tool_call_output", "call_id": "c0", "output": "0"},
            ]
            await assert_output_counted(caller, f"sql{TEXT}")


async def test_a_custom_tool_is_refused_if_the_providers_wire_has_none(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with new_user(all_wires_server) as caller:
        for wire in (MESSAGES, OLLAMA):
            reply = await post(caller, CHAT_PATH, model=wire.model, tools=[CHAT_TOOL], **user_messages(caller.marker))
            assert_refused(reply, "tools")
            reply = await post(caller, RESPONSES_PATH, model=wire.model, tools=[RESPONSES_TOOL], input=caller.marker)
            assert_refused(reply, "tools")
        assert (await caller.charges(), upstream.requests(caller.marker)) == ([], [])


async def test_reasoning_is_kept_in_whole_and_streamed_answers(all_wires_server: Server) -> None:
    async with new_user(all_wires_server) as caller:
        whole = answer_prompt(caller.marker, whole={"content": "Yes.", "reasoning": TEXT})
        streamed = answer_prompt(caller.marker, {"reasoning": TEXT}, {"content": "Yes."})
        reply = await post(caller, MESSAGES_PATH, model=CHAT.model, max_tokens=100, **user_messages(whole))
        thought, text = reply.body["content"]
        assert (thought["type"], thought["thinking"], text["text"]) == ("thinking", TEXT, "Yes.")
        received = await events(caller, MESSAGES_PATH, model=CHAT.model, max_tokens=100, **user_messages(streamed))
        assert [one["delta"]["thinking"] for one in received if "thinking" in one.get("delta", {})] == [TEXT]
        output = (await post(caller, RESPONSES_PATH, model=CHAT.model, input=whole)).body["output"]
        *_, last = await events(caller, RESPONSES_PATH, model=CHAT.model, input=streamed)
        for items in (output, last["response"]["output"]):
            assert [item["type"] for item in items] == ["reasoning", "message"]
            assert items[0]["summary"] == [{"type": "summary_text", "text": TEXT}]


@pytest.mark.parametrize("strict", [{"strict": True}, {"strict": False}, {}], ids=["strict", "loose", "not given"])
async def test_the_strict_field_of_a_schema_is_kept_from_wire_to_wire(
    all_wires_server: Server, upstream: Upstream, strict: dict[str, bool]
) -> None:
    named = {"name": "weather", "description": "About it.", "schema": SCHEMA}
    for_chat = {"type": "json_schema", "json_schema": named | strict}
    for_responses = {"type": "json_schema"} | named | strict
    async with new_user(all_wires_server) as caller:
        for wire in (CHAT, RESPONSES):
            chatted = await post(
                caller, CHAT_PATH, model=wire.model, response_format=for_chat, **user_messages(f"{caller.marker} chat")
            )
            responded = await post(
                caller, RESPONSES_PATH, model=wire.model, text={"format": for_responses}, input=f"{caller.marker} other"
            )
            assert (chatted.status, responded.status) == (200, 200)
        bodies = [request["body"] for request in upstream.requests(caller.marker)]
        assert [body.get("response_format") for body in bodies] == [for_chat, for_chat, None, None]
        assert [body.get("text") for body in bodies[2:]] == [{"format": for_responses}] * 2


@pytest.mark.parametrize("strict", [True, False])
async def test_the_strict_field_of_a_function_is_kept_from_wire_to_wire(
    all_wires_server: Server, upstream: Upstream, *, strict: bool
) -> None:
    described = {"name": "f", "parameters": SCHEMA, "strict": strict}
    for_chat, for_responses = {"type": "function", "function": described}, {"type": "function"} | described
    async with new_user(all_wires_server) as caller:
        await post(caller, CHAT_PATH, model=RESPONSES.model, tools=[for_chat], **user_messages(caller.marker))
        await post(caller, RESPONSES_PATH, model=CHAT.model, tools=[for_responses], input=caller.marker)
        first, second = upstream.requests(caller.marker)
        assert (first["body"]["tools"], second["body"]["tools"]) == ([for_responses], [for_chat])


def user_item(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


REFUSAL = "I must not say."


async def test_a_refusal_in_anthropics_stop_details_reaches_every_wire(all_wires_server: Server) -> None:
    """Anthropic sends the text of a refusal with the stop reason."""
    details = {"type": "refusal", "category": None, "explanation": REFUSAL}
    start: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "c",
        "content": [],
        "stop_reason": None,
    }
    stream_events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start | {"usage": {"input_tokens": 10, "output_tokens": 1}}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "refusal", "stop_details": details},
            "usage": {"output_tokens": 4},
        },
        {"type": "message_stop"},
    ]
    raw = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in stream_events)
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, raw=raw, headers={"Content-Type": "text/event-stream"})
        received = await events(caller, CHAT_PATH, model=MESSAGES.model, **user_messages(prompt))
        refusals = [one["choices"][0]["delta"].get("refusal") for one in received if one["choices"]]
        assert "".join(refusal or "" for refusal in refusals) == REFUSAL
        received = await events(caller, RESPONSES_PATH, model=MESSAGES.model, input=prompt)
        assert REFUSAL in [one["delta"] for one in received if one["type"] == "response.refusal.delta"]
        assert {(charge["cost"], charge["basis"]) for charge in await caller.charges()} == {(14, "provider")}


async def test_text_and_tool_calls_in_ollamas_last_line_are_kept(all_wires_server: Server) -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}
    lines: list[dict[str, Any]] = [
        {"model": "m", "message": {"role": "assistant", "content": "one "}, "done": False},
        {"model": "m", "message": {"role": "assistant", "content": "two", "tool_calls": [call]}} | end,
    ]
    raw = "".join(json.dumps(line) + "\n" for line in lines)
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, raw=raw, headers={"Content-Type": "application/x-ndjson"})
        received = await events(caller, CHAT_PATH, model=OLLAMA.model, **user_messages(prompt))
        deltas = [one["choices"][0]["delta"] for one in received if one["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == "one two"
        (called,) = [delta["tool_calls"][0]["function"] for delta in deltas if delta.get("tool_calls")]
        assert (called["name"], json.loads(called["arguments"])) == ("f", {"a": 1})
        (charge,) = await caller.charges()
        assert (charge["cost"], charge["basis"]) == (5, "provider")


FUNCTIONS: list[dict[str, Any]] = [{"name": name, "parameters": SCHEMA} for name in ("find", "pick")]
FORCING: dict[str, dict[str, dict[str, Any]]] = {
    CHAT_PATH: {
        "named": {"tool_choice": {"type": "function", "function": {"name": "pick"}}, "parallel_tool_calls": False},
        "any": {"tool_choice": "required", "parallel_tool_calls": False},
    },
    RESPONSES_PATH: {
        "named": {"tool_choice": {"type": "function", "name": "pick"}, "parallel_tool_calls": False},
        "any": {"tool_choice": "required", "parallel_tool_calls": False},
    },
    MESSAGES_PATH: {
        "named": {"tool_choice": {"type": "tool", "name": "pick", "disable_parallel_tool_use": True}},
        "any": {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
    },
}


@pytest.mark.parametrize("path", FORCING)
@pytest.mark.parametrize(("choice", "offered"), [("named", ["pick"]), ("any", ["find", "pick"])])
async def test_for_a_forced_tool_choice_ollama_is_sent_only_the_tools_to_choose_from(
    all_wires_server: Server, upstream: Upstream, path: str, choice: str, offered: list[str]
) -> None:
    """Ollama's wire has no field for the choice or for parallel calls, and its compatible endpoint ignores both."""
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, tool_call={"name": "pick", "arguments": {"a": "b"}})
        query: dict[str, Any] = {"model": OLLAMA.model} | FORCING[path][choice]
        match path:
            case "/v1/chat/completions":
                query |= user_messages(prompt) | {"tools": [{"type": "function", "function": one} for one in FUNCTIONS]}
            case "/v1/responses":
                query |= {"input": prompt, "tools": [{"type": "function"} | one for one in FUNCTIONS]}
            case _:
                tools = [{"name": one["name"], "input_schema": SCHEMA} for one in FUNCTIONS]
                query |= user_messages(prompt) | {"tools": tools, "max_tokens": 100}
        reply = await post(caller, path, **query)
        assert reply.status == 200, reply
        assert _tool_call(path, reply.body) == ("pick", {"a": "b"})
        assert await events(caller, path, **query)
        for request in upstream.requests(caller.marker):
            assert request["path"] == OLLAMA.path
            assert [tool["function"]["name"] for tool in request["body"]["tools"]] == offered
            assert {"tool_choice", "parallel_tool_calls"}.isdisjoint(request["body"])
        assert [charge["state"] for charge in await caller.charges()] == ["settled", "settled"]


def _tool_call(path: str, answer: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and arguments of the only tool call in an answer."""
    if path == MESSAGES_PATH:
        (block,) = answer["content"]
        return block["name"], block["input"]
    if path == RESPONSES_PATH:
        (call,) = answer["output"]
    else:
        (call,) = (one["function"] for one in answer["choices"][0]["message"]["tool_calls"])
    return call["name"], json.loads(call["arguments"])


async def test_a_parameter_that_the_wire_lacks_is_refused_by_the_name_that_the_caller_sent(
    all_wires_server: Server,
) -> None:
    async with new_user(all_wires_server) as caller:
        query = user_messages("hi") | {"max_tokens": 9}
        for model, given, begin in (
            (RESPONSES.model, {"stop_sequences": ["END"]}, "stop_sequences is not supported here"),
            (OLLAMA.model, {"output_config": {"effort": "max"}}, "output_config.effort is not supported here"),
            (RESPONSES.model, {"stop": ["END"]}, "This provider does not take stop."),
        ):
            reply = await post(caller, MESSAGES_PATH, model=model, **query, **given)
            assert (reply.status, reply.headers["X-Error-Code"]) == (400, "unsupported_parameter"), reply
            assert reply.body["error"]["message"].startswith(begin), reply
        reply = await post(caller, CHAT_PATH, model=RESPONSES.model, stop="END", **user_messages("hi"))
        assert_refused(reply, "stop")
        assert await caller.charges() == []
