"""The reasoning of an answer, its signature and the ids of its tool calls come back to the model in the next turn.

The caller sends back what the answer contained, as clients do, on each pair of a caller's and a provider's wire.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from journeys.support.client_formats import events_in
from journeys.support.compat_requests import CHAT_PATH, MESSAGES_PATH, RESPONSES_PATH, post
from journeys.support.provider_wires import CHAT, MESSAGES, OLLAMA, RESPONSES, Wire
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from tollkeeper.dialects.call_ids import short_id, word_id

pytestmark = pytest.mark.prove_only_on_postgres

THOUGHT, SIGNATURE = "I should call it.", "c2ln+/bmF0dXJl=="
EXTRA = {"google": {"thought_signature": SIGNATURE}}
CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"at":"Ulm"}'}}
TOOL_USE = {"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"at": "Ulm"}}
ITEM_CALL = {"type": "function_call", "id": "fc", "call_id": "c1", "name": "get_weather", "arguments": '{"at":"Ulm"}'}
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}


def chat_answer(message: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}


class Answer(NamedTuple):
    """An answer of a model: in JSON, and the events of the same answer."""

    whole: dict[str, Any]
    events: tuple[dict[str, Any], ...]


THINKING = {"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE}
ITEM_REASONING = {
    "type": "reasoning",
    "id": "rs",
    "summary": [{"type": "summary_text", "text": THOUGHT}],
    "encrypted_content": SIGNATURE,
}


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def block_events(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


MESSAGE = {"type": "message", "content": [THINKING, TOOL_USE], "stop_reason": "tool_use"}
RESPONSE = {"object": "response", "status": "completed", "output": [ITEM_REASONING, ITEM_CALL]}
ANSWERS = {
    CHAT: Answer(
        chat_answer({"reasoning_content": THOUGHT, "tool_calls": [CHAT_CALL | {"extra_content": EXTRA}]}),
        (
            chunk({"reasoning_content": THOUGHT}),
            chunk({"tool_calls": [{"index": 0} | CHAT_CALL | {"extra_content": EXTRA}]}),
            chunk({}, "tool_calls"),
        ),
    ),
    MESSAGES: Answer(
        MESSAGE,
        (
            {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
            *block_events(
                0,
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "thinking_delta", "thinking": THOUGHT[:4]},
                {"type": "thinking_delta", "thinking": THOUGHT[4:]},
                {"type": "signature_delta", "signature": SIGNATURE},
            ),
            *block_events(1, TOOL_USE | {"input": {}}, {"type": "input_json_delta", "partial_json": '{"at":"Ulm"}'}),
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
            {"type": "message_stop"},
        ),
    ),
    RESPONSES: Answer(
        RESPONSE,
        (
            {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": THOUGHT},
            {"type": "response.output_item.done", "output_index": 0, "item": ITEM_REASONING},
            {"type": "response.output_item.added", "output_index": 1, "item": ITEM_CALL},
            {"type": "response.output_item.done", "output_index": 1, "item": ITEM_CALL},
            {"type": "response.completed", "response": RESPONSE},
        ),
    ),
}


def script_of(wire: Wire, *, streaming: bool) -> dict[str, Any]:
    answer = ANSWERS[wire]
    if not streaming:
        return {"json": answer.whole}
    names = [f"event: {one['type']}\n" if "type" in one else "" for one in answer.events]
    lines = [f"{name}data: {json.dumps(one)}\n\n" for name, one in zip(names, answer.events, strict=True)]
    return {"raw": "".join(lines), "headers": {"Content-Type": "text/event-stream"}}


class Client(NamedTuple):
    """A client of one of the API's wires. `returned` are the messages or items that it sends back after an answer."""

    path: str
    field: str
    tools: list[dict[str, Any]]
    returned: Callable[[Any], list[dict[str, Any]]]
    collect: Callable[[list[dict[str, Any]]], Any]


def return_message(answer: dict[str, Any]) -> list[dict[str, Any]]:
    message = answer["choices"][0]["message"]
    (call,) = message["tool_calls"]
    return [message | {"role": "assistant"}, {"role": "tool", "tool_call_id": call["id"], "content": "20"}]


def return_blocks(answer: dict[str, Any]) -> list[dict[str, Any]]:
    (used,) = [block for block in answer["content"] if block["type"] == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": used["id"], "content": "20"}
    return [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": [result]}]


def return_items(answer: dict[str, Any]) -> list[dict[str, Any]]:
    (call,) = [item for item in answer["output"] if item["type"] == "function_call"]
    return [*answer["output"], {"type": "function_call_output", "call_id": call["call_id"], "output": "20"}]


def collect_chunks(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    deltas = [choice["delta"] for one in chunks for choice in one["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    arguments = "".join(call["function"]["arguments"] for call in calls)
    call = calls[0] | {"function": {"name": calls[0]["function"]["name"], "arguments": arguments}}
    reasoning = "".join(delta.get("reasoning_content", "") for delta in deltas)
    return {"choices": [{"message": {"content": None, "reasoning_content": reasoning, "tool_calls": [call]}}]}


def collect_blocks(events: list[dict[str, Any]]) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    partial = ""
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            partial += delta.get("partial_json", "")
            for name in ("thinking", "signature", "text"):
                if name in delta:
                    blocks[-1][name] += delta[name]
    blocks[-1]["input"] = json.loads(partial)
    return {"content": blocks}


def collect_response(events: list[dict[str, Any]]) -> Any:
    return events[-1]["response"]


CLIENTS = {
    CHAT: Client(
        CHAT_PATH,
        "messages",
        [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}],
        return_message,
        collect_chunks,
    ),
    MESSAGES: Client(
        MESSAGES_PATH, "messages", [{"name": "get_weather", "input_schema": SCHEMA}], return_blocks, collect_blocks
    ),
    RESPONSES: Client(
        RESPONSES_PATH,
        "input",
        [{"type": "function", "name": "get_weather", "parameters": SCHEMA}],
        return_items,
        collect_response,
    ),
}
LIMITS = {CHAT: {}, MESSAGES: {"max_tokens": 100}, RESPONSES: {}}


async def ask(caller: ApiUser, client: Wire, model: str, history: list[dict[str, Any]], *, streaming: bool) -> Any:
    door = CLIENTS[client]
    query = {"model": model, "tools": door.tools, door.field: history} | LIMITS[client]
    if not streaming:
        reply = await post(caller, door.path, **query)
        assert reply.status == 200, reply
        return reply.body
    async with caller.http.post(door.path, json=query | {"stream": True}, headers=caller.auth_headers) as response:
        assert response.status == 200, await response.text()
        events = [one.document for one in events_in(await response.read()) if one.data != "[DONE]"]
    return door.collect(events)


async def second_turn(
    caller: ApiUser, upstream: Upstream, client: Wire, first: Wire, second: Wire, *, streaming: bool = False
) -> dict[str, Any]:
    """The body that the second model receives, after a turn with the first."""
    user = {"role": "user", "content": scripted(caller.marker, **script_of(first, streaming=streaming))}
    answer = await ask(caller, client, first.model, [user], streaming=streaming)
    question = {"role": "user", "content": f"{caller.marker} go on"}
    await ask(caller, client, second.model, [question, *CLIENTS[client].returned(answer)], streaming=False)
    body: dict[str, Any] = upstream.requests(caller.marker)[-1]["body"]
    return body


def parts_in(value: Any) -> Iterator[dict[str, Any]]:
    """All objects of a body, from outside to inside."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from parts_in(one)


def of_type(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one for one in parts_in(body) if one.get("type") == kind]


def assert_own_signature(wire: Wire, body: dict[str, Any]) -> None:
    """The model got back its reasoning with its signature, as it had sent it, and its own id of the call."""
    if wire is MESSAGES:
        assert of_type(body, "thinking") == [THINKING]
        assert [one["id"] for one in of_type(body, "tool_use")] == ["c1"]
        assert [one["tool_use_id"] for one in of_type(body, "tool_result")] == ["c1"]
    elif wire is RESPONSES:
        (reasoning,) = of_type(body, "reasoning")
        assert (reasoning["encrypted_content"], reasoning["summary"]) == (SIGNATURE, ITEM_REASONING["summary"])
        assert [one["call_id"] for one in of_type(body, "function_call")] == ["c1"]
        assert [one["call_id"] for one in of_type(body, "function_call_output")] == ["c1"]
    else:
        (called,) = [one for one in body["messages"] if one["role"] == "assistant"]
        assert called["reasoning_content"] == THOUGHT
        (call,) = called["tool_calls"]
        assert (call["id"], call["extra_content"]) == ("c1", EXTRA)
        assert [one["tool_call_id"] for one in body["messages"] if one["role"] == "tool"] == ["c1"]
    assert "__tksig" not in json.dumps(body)


TRANSLATED = [(client, wire) for client in CLIENTS for wire in ANSWERS if client != wire]


@pytest.mark.parametrize(("client", "wire"), TRANSLATED, ids=lambda wire: wire.model)
async def test_the_model_gets_back_its_reasoning_with_its_signature(
    client: Wire, wire: Wire, all_wires_server: Server, upstream: Upstream
) -> None:
    for streaming in (False, True):
        async with new_user(all_wires_server) as caller:
            body = await second_turn(caller, upstream, client, wire, wire, streaming=streaming)
            assert_own_signature(wire, body)


@pytest.mark.parametrize(("client", "first"), TRANSLATED, ids=lambda wire: wire.model)
async def test_another_model_gets_the_reasoning_as_text_if_it_takes_it_and_never_a_foreign_signature(
    client: Wire, first: Wire, all_wires_server: Server, upstream: Upstream
) -> None:
    for second in (CHAT, MESSAGES, RESPONSES, OLLAMA):
        if second == first:
            continue
        async with new_user(all_wires_server) as caller:
            body = await second_turn(caller, upstream, client, first, second)
            text = json.dumps(body)
            assert SIGNATURE not in text
            assert "__tksig" not in text
            if second is MESSAGES:
                assert of_type(body, "thinking") == []
            elif second != client:  # a request that is passed on keeps only what the client sent in its own format
                assert THOUGHT in text
            if second is CHAT and second != client:
                assert [one["reasoning_content"] for one in body["messages"] if one["role"] == "assistant"] == [THOUGHT]


async def test_unsigned_thinking_is_sent_to_a_chat_model_and_not_to_anthropic(
    all_wires_server: Server, upstream: Upstream
) -> None:
    thinking = {"type": "thinking", "thinking": THOUGHT, "signature": ""}
    for wire in (CHAT, MESSAGES):
        async with new_user(all_wires_server) as caller:
            history = [
                {"role": "user", "content": caller.marker},
                *return_blocks({"content": [thinking, TOOL_USE]}),
            ]
            await ask(caller, MESSAGES, wire.model, history, streaming=False)
            (request,) = upstream.requests(caller.marker)
            _, called, *_ = request["body"]["messages"]
            if wire is MESSAGES:
                assert called["content"] == [TOOL_USE]
            else:
                assert called["reasoning_content"] == THOUGHT


async def test_carried_reasoning_counts_as_input(all_wires_server: Server, upstream: Upstream) -> None:
    """The hold covers the bytes of the body, and the count of a provider without usage covers the reasoning."""
    counted = []
    for thought in ("hm", "hm " * 2_000):
        async with new_user(all_wires_server) as caller:
            prompt = scripted(caller.marker, json=chat_answer({"content": "well"}))
            thinking = {"type": "thinking", "thinking": thought, "signature": ""}
            history = [
                {"role": "user", "content": prompt},
                *return_blocks({"content": [thinking, TOOL_USE]}),
            ]
            await ask(caller, MESSAGES, CHAT.model, history, streaming=False)
            (charge,) = await caller.charges()
            counted.append(charge["input_tokens"])
    assert counted[1] - counted[0] >= 1_900


@pytest.mark.parametrize("client", CLIENTS, ids=lambda wire: wire.model)
async def test_both_ids_of_a_tool_call_are_mapped_where_the_wire_refuses_them(
    client: Wire, all_wires_server: Server, upstream: Upstream
) -> None:
    odd, long = "functions.get_weather:0", "call_" + "x" * 75
    for call_id in (odd, long):
        async with new_user(all_wires_server) as caller:
            answer = {
                CHAT: chat_answer({"content": None, "tool_calls": [CHAT_CALL | {"id": call_id}]}),
                MESSAGES: {"content": [TOOL_USE | {"id": call_id}]},
                RESPONSES: {"output": [ITEM_CALL | {"call_id": call_id}]},
            }[client]
            user = {"role": "user", "content": caller.marker}
            for wire in (MESSAGES, CHAT, RESPONSES):
                await ask(caller, client, wire.model, [user, *CLIENTS[client].returned(answer)], streaming=False)
            to_messages, to_chat, to_responses = (one["body"] for one in upstream.requests(caller.marker))
            (used,), (result,) = of_type(to_messages, "tool_use"), of_type(to_messages, "tool_result")
            assert used["id"] == result["tool_use_id"] == word_id(call_id)
            if client is not CHAT:
                ids = [one["id"] for one in parts_in(to_chat) if one.get("type") == "function" and "id" in one]
                assert ids == [one["tool_call_id"] for one in to_chat["messages"] if one["role"] == "tool"]
                assert ids == [short_id(call_id)]
            if client is not RESPONSES:
                (called,) = of_type(to_responses, "function_call")
                (output,) = of_type(to_responses, "function_call_output")
                assert called["call_id"] == output["call_id"] == short_id(call_id)
