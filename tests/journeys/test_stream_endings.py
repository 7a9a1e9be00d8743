"""The last events of a provider's stream, present or missing: the answer is complete, and costs what is known."""

import json
from typing import Any

import pytest

from journeys.support.endpoints import NATIVE_STREAM, STREAMING_ENDPOINTS, call
from journeys.support.provider_wires import MESSAGES, WIRES, Wire
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import scripted

pytestmark = pytest.mark.prove_only_on_postgres

ANSWER = "one two"
LIMIT = 200


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.model)
async def test_a_connection_that_closes_after_the_last_event_breaks_no_answer(
    all_wires_server: Server, wire: Wire
) -> None:
    async with new_user(all_wires_server) as caller:
        for endpoint in STREAMING_ENDPOINTS:
            prompt = scripted(caller.marker, answer=ANSWER, close_at_end=True)
            received = await call(caller, endpoint, prompt, wire.model, LIMIT)
            assert (received.code, received.answer.text, received.answer.error, received.answer.end_events) == (
                None,
                ANSWER,
                None,
                1,
            ), endpoint.name
        charges = await caller.charges()
    assert len(charges) == len(STREAMING_ENDPOINTS)
    assert {(charge["state"], charge["basis"], charge["error"]) for charge in charges} == {
        ("settled", "provider", None)
    }


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.model)
async def test_an_answer_of_reasoning_only_is_complete(all_wires_server: Server, wire: Wire) -> None:
    """The native endpoint shows no reasoning, so its answer is empty."""
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, reasoning="let me think", chunks=[], close_at_end=True)
        received = await call(caller, NATIVE_STREAM, prompt, wire.model, LIMIT)
    assert (received.status, received.answer.text, received.answer.error, received.answer.end_events) == (
        200,
        "",
        None,
        1,
    )


@pytest.mark.parametrize("usage", [None, {"input_tokens": 9}, {"input_tokens": 9, "output_tokens": None}, {}])
async def test_a_placeholder_in_the_first_event_is_not_a_usage_report(
    all_wires_server: Server, usage: dict[str, Any] | None
) -> None:
    """The first event of a message always has an output of 1; only the last one has the usage."""
    words = "one two three four five six seven eight nine ten"
    start: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start | {"usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": words}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    raw = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events)
    async with new_user(all_wires_server) as caller:
        for endpoint in (NATIVE_STREAM, STREAMING_ENDPOINTS[-1]):
            prompt = scripted(caller.marker, raw=raw, headers={"Content-Type": "text/event-stream"})
            received = await call(caller, endpoint, prompt, MESSAGES.model, LIMIT)
            assert received.answer.text == words
        charges = await caller.charges()
    assert {(charge["basis"], charge["output_tokens"]) for charge in charges} == {("counted", 10)}
