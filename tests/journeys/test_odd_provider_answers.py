"""Odd answers and reports of providers, from the provider's bytes to the charge."""

import json
from typing import Any

import pytest

from journeys.support.client_formats import SECRET
from journeys.support.compat_requests import CHAT_PATH, MESSAGES_PATH, events, post, user_messages
from journeys.support.endpoints import NATIVE_STREAM, STREAMING_ENDPOINTS, WHOLE_ENDPOINTS, call
from journeys.support.provider_wires import CHAT, EMBEDDINGS, MESSAGES, RESPONSES, WIRES, Wire
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.support.who_pays import count_tokens
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.prove_only_on_postgres

ANSWER = "one two three four five six seven"
EVENT_STREAM = {"Content-Type": "text/event-stream"}
WIRE_IDS: dict[str, Any] = {"ids": lambda wire: wire.model}
HIDDEN_THINKING = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 599}
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}


def sse_prompt(marker: str, *documents: dict[str, Any], done: bool = True) -> str:
    """The prompt that makes the upstream stream these documents."""
    lines = [f"event: {one['type']}\n" if "type" in one else "" for one in documents]
    raw = "".join(f"{line}data: {json.dumps(one)}\n\n" for line, one in zip(lines, documents, strict=True))
    return scripted(marker, raw=raw + ("data: [DONE]\n\n" if done else ""), headers=EVENT_STREAM)


def chat_chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | more


async def only_charge(caller: ApiUser) -> dict[str, Any]:
    (charge,) = await caller.charges()
    assert (await caller.quota())["reserved"] == 0
    return charge


async def test_output_in_the_total_only_is_charged_and_does_not_change_the_answer(all_wires_server: Server) -> None:
    for endpoint in (*WHOLE_ENDPOINTS, *STREAMING_ENDPOINTS):
        async with new_user(all_wires_server) as caller:
            prompt = scripted(caller.marker, answer=ANSWER, usage=HIDDEN_THINKING)
            made = await call(caller, endpoint, prompt, CHAT.model, 50)
            assert (made.status, made.answer.text) == (200, ANSWER), endpoint.name
            assert made.answer.finish != endpoint.client_format.length
            charge = await only_charge(caller)
            assert (charge["basis"], charge["input_tokens"], charge["output_tokens"]) == ("provider", 20, 579)


@pytest.mark.parametrize("wire", WIRES, **WIRE_IDS)
async def test_only_the_zero_that_cannot_be_true_is_counted(all_wires_server: Server, wire: Wire) -> None:
    for endpoint in (WHOLE_ENDPOINTS[0], NATIVE_STREAM):
        for usage, counts_input in (({"input": 0, "output": 42}, True), ({"input": 42, "output": 0}, False)):
            async with new_user(all_wires_server) as caller:
                prompt = scripted(caller.marker, answer=ANSWER, usage=usage)
                made = await call(caller, endpoint, prompt, wire.model)
                assert made.status == 200, made.raw
                charge = await only_charge(caller)
            input_tokens = charge["input_tokens"] if counts_input else 42
            assert input_tokens >= (count_tokens(prompt) if counts_input else 42)
            output_tokens = 42 if counts_input else count_tokens(ANSWER)
            assert (charge["basis"], charge["cost"]) == ("counted", input_tokens + output_tokens), endpoint.name


async def test_an_embedding_reported_as_zero_is_counted(all_wires_server: Server) -> None:
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, usage={"prompt_tokens": 0, "total_tokens": 0})
        reply = await post(caller, "/v1/embeddings", model=EMBEDDINGS.model, input=prompt)
        assert reply.status == 200
        charge = await only_charge(caller)
    assert charge["basis"] == "counted"
    assert charge["cost"] == charge["input_tokens"] >= count_tokens(prompt)


async def test_content_lists_pass_on_the_same_wire_and_are_translated_to_others(all_wires_server: Server) -> None:
    content = [THINKING, {"type": "text", "text": "Hello"}]
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    message = {"role": "assistant", "content": content}
    document = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    chunks = [chat_chunk({"content": [THINKING]}), chat_chunk({"content": "Hello"}), chat_chunk({}, "stop")]
    async with new_user(all_wires_server) as caller:
        whole = scripted(caller.marker, json=document)
        streamed = sse_prompt(caller.marker, *chunks, {"choices": [], "usage": usage})
        reply = await post(caller, CHAT_PATH, model=CHAT.model, **user_messages(whole))
        assert reply.body == document
        assert await events(caller, CHAT_PATH, model=CHAT.model, **user_messages(streamed)) == chunks
        reply = await post(caller, MESSAGES_PATH, model=CHAT.model, max_tokens=50, **user_messages(whole))
        assert [block.get("thinking") or block["text"] for block in reply.body["content"]] == ["hmm", "Hello"]
        received = await events(caller, MESSAGES_PATH, model=CHAT.model, max_tokens=50, **user_messages(streamed))
        deltas = [event["delta"] for event in received if event["type"] == "content_block_delta"]
        assert [delta[name] for delta in deltas for name in ("thinking", "text") if name in delta] == ["hmm", "Hello"]
        charges = await caller.charges()
    assert [(one["basis"], one["input_tokens"], one["output_tokens"]) for one in charges] == [("provider", 10, 5)] * 4


@pytest.mark.parametrize("wire", WIRES, **WIRE_IDS)
async def test_a_failure_before_any_output_costs_nothing_and_is_retried_unseen(
    all_wires_server: Server, upstream: Upstream, wire: Wire
) -> None:
    for endpoint in STREAMING_ENDPOINTS:
        async with new_user(all_wires_server) as caller:
            prompt = scripted(caller.marker, answer=ANSWER, error_after=0, fail_times=1)
            made = await call(caller, endpoint, prompt, wire.model)
            assert (made.status, made.answer.text, made.answer.end_events) == (200, ANSWER, 1), made.raw
            assert (await only_charge(caller))["basis"] == "provider"
        assert len(upstream.requests(caller.marker)) == 2
        async with new_user(all_wires_server) as caller:
            made = await call(caller, endpoint, scripted(caller.marker, error_after=0), wire.model)
            assert (made.status, made.code) == (502, "provider_error"), made.raw
            charge = await only_charge(caller)
            assert (charge["state"], charge["basis"], charge["cost"]) == ("released", "none", 0)
        assert len(upstream.requests(caller.marker)) == 2


async def test_an_early_report_is_no_output_and_does_not_end_the_stream(all_wires_server: Server) -> None:
    early = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}}
    async with new_user(all_wires_server) as caller:
        prompt = sse_prompt(caller.marker, early, {"error": {"message": SECRET}})
        made = await call(caller, NATIVE_STREAM, prompt, CHAT.model)
        assert (made.status, made.code) == (502, "provider_error")
        assert (await only_charge(caller))["basis"] == "none"
    async with new_user(all_wires_server) as caller:
        final = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}}
        chunks = [chat_chunk({"content": "Hello"}), chat_chunk({}, "stop")]
        prompt = sse_prompt(caller.marker, early, *chunks, final)
        assert await events(caller, CHAT_PATH, model=CHAT.model, **user_messages(prompt)) == chunks
        charge = await only_charge(caller)
        assert (charge["basis"], charge["input_tokens"], charge["output_tokens"]) == ("provider", 10, 3)


async def test_the_usage_in_a_failure_is_charged_as_reported(all_wires_server: Server, upstream: Upstream) -> None:
    usage = {"input_tokens": 4_000, "output_tokens": 1_000, "total_tokens": 5_000}
    failed = {"id": "r1", "status": "failed", "output": [], "error": {"message": SECRET}, "usage": usage}
    created = {"type": "response.created", "response": {"id": "r1", "status": "in_progress", "output": []}}
    event = {"type": "response.failed", "response": failed}
    for endpoint in (*WHOLE_ENDPOINTS, *STREAMING_ENDPOINTS):
        async with new_user(all_wires_server) as caller:
            prompt = scripted(caller.marker, json=failed)
            if endpoint.streams:
                prompt = sse_prompt(caller.marker, created, event, done=False)
            made = await call(caller, endpoint, prompt, RESPONSES.model)
            assert (made.status, made.code) == (502, "provider_error"), made.raw
            charge = await only_charge(caller)
            assert (charge["state"], charge["basis"], charge["error"]) == ("settled", "provider", "provider_error")
            assert (charge["input_tokens"], charge["output_tokens"], charge["overrun"]) == (4_000, 1_000, True)
        assert len(upstream.requests(caller.marker)) == 1


async def test_an_error_after_a_report_of_all_output_is_charged_as_reported(all_wires_server: Server) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    async with new_user(all_wires_server) as caller:
        chunk = chat_chunk({"content": "Hello"}, usage=usage)
        prompt = sse_prompt(caller.marker, chunk, {"error": {"message": SECRET}})
        made = await call(caller, NATIVE_STREAM, prompt, CHAT.model)
        assert made.answer.text == "Hello"
        assert made.answer.error is not None
        charge = await only_charge(caller)
        assert (charge["basis"], charge["input_tokens"], charge["output_tokens"]) == ("provider", 10, 5)


@pytest.mark.parametrize("wire", [*WIRES, EMBEDDINGS], **WIRE_IDS)
async def test_an_error_with_status_200_costs_nothing_and_is_retried(
    all_wires_server: Server, upstream: Upstream, wire: Wire
) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": SECRET}}
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, json=error)
        if wire is EMBEDDINGS:
            reply = await post(caller, "/v1/embeddings", model=wire.model, input=prompt)
            assert (reply.status, reply.headers["X-Error-Code"]) == (502, "provider_error")
        else:
            for endpoint in (WHOLE_ENDPOINTS[0], NATIVE_STREAM):
                made = await call(caller, endpoint, prompt, wire.model)
                assert (made.status, made.code) == (502, "provider_error"), made.raw
        charges = await caller.charges()
        assert {(one["state"], one["basis"], one["cost"]) for one in charges} == {("released", "none", 0)}
    assert len(upstream.requests(caller.marker)) == 2 * len(charges)


@pytest.mark.parametrize("wire", [CHAT, MESSAGES, RESPONSES], **WIRE_IDS)
async def test_a_whole_answer_to_a_streamed_call_is_streamed_and_charged(all_wires_server: Server, wire: Wire) -> None:
    bodies: dict[Wire, dict[str, Any]] = {
        CHAT: {
            "choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5},
        },
        MESSAGES: {
            "type": "message",
            "content": [{"type": "text", "text": "Hello"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 10, "output_tokens": 5},
        },
        RESPONSES: {
            "status": "completed",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
            "usage": {"input_tokens": 10, "output_tokens": 5},
        },
    }
    async with new_user(all_wires_server) as caller:
        for endpoint in STREAMING_ENDPOINTS:
            made = await call(caller, endpoint, scripted(caller.marker, json=bodies[wire]), wire.model)
            assert (made.status, made.answer.text, made.answer.end_events) == (200, "Hello", 1), made.raw
        charges = await caller.charges()
    assert {(one["basis"], one["input_tokens"], one["output_tokens"]) for one in charges} == {("provider", 10, 5)}
    assert len(charges) == len(STREAMING_ENDPOINTS)
