"""What a provider says last, or fails to: the answer stands as it was said, and costs what is known of it."""

import json
from typing import Any

import pytest

from journeys.support.endpoints import STREAM, STREAMED, call
from journeys.support.provider_wires import MESSAGES, WIRES, Wire
from journeys.support.server import Server
from journeys.support.users import person
from journeys.upstream.handle import scripted

pytestmark = pytest.mark.exhaustive_on_postgres

SAID = "one two"
LIMIT = 200


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.model)
async def test_a_line_that_breaks_after_the_last_word_breaks_no_answer(doors: Server, wire: Wire) -> None:
    async with person(doors) as caller:
        for door in STREAMED:
            prompt = scripted(caller.marker, answer=SAID, close_at_end=True)
            heard = await call(caller, door, prompt, wire.model, LIMIT)
            assert (heard.code, heard.said.text, heard.said.error, heard.said.ends) == (None, SAID, None, 1), door.name
        charges = await caller.charges()
    assert len(charges) == len(STREAMED)
    assert {(charge["state"], charge["basis"], charge["error"]) for charge in charges} == {
        ("settled", "provider", None)
    }


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.model)
async def test_who_only_thought_has_said_so(doors: Server, wire: Wire) -> None:
    """Though nothing can be heard of it at the native door."""
    async with person(doors) as caller:
        prompt = scripted(caller.marker, reasoning="let me think", chunks=[], close_at_end=True)
        heard = await call(caller, STREAM, prompt, wire.model, LIMIT)
    assert (heard.status, heard.said.text, heard.said.error, heard.said.ends) == (200, "", None, 1)


@pytest.mark.parametrize("usage", [None, {"input_tokens": 9}, {"input_tokens": 9, "output_tokens": None}, {}])
async def test_a_placeholder_is_no_report(doors: Server, usage: dict[str, Any] | None) -> None:
    """The first event of a message always says an output of 1; only the last one tells what it came to."""
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
    async with person(doors) as caller:
        for door in (STREAM, STREAMED[-1]):
            prompt = scripted(caller.marker, raw=raw, headers={"Content-Type": "text/event-stream"})
            heard = await call(caller, door, prompt, MESSAGES.model, LIMIT)
            assert heard.said.text == words
        charges = await caller.charges()
    assert {(charge["basis"], charge["output_tokens"]) for charge in charges} == {("counted", 10)}
