"""StreamTracker: a provider's stream that is cut anywhere is ended so that the SDKs accept it as one answer."""

from typing import Any

import anthropic.types as anthropic_wire
import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from support.depth import examples
from tollkeeper.chat import Delta, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.dialects import messages, responses
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.sse import Event, Splitter, event

META = ResponseMeta("resp_theirs", "gpt-x", 1_700_000_000)
USAGE = Usage(20, 12)
ALL_KINDS_OF_DELTAS: list[Delta] = [
    ReasoningDelta("Hm"),
    TextDelta("Let me"),
    TextDelta(" see."),
    ToolCallDelta(0, "call_a", "sky", ""),
    ToolCallDelta(0, None, None, '{"at":'),
    ToolCallDelta(1, "call_b", "sky", "{"),
    ToolCallDelta(0, None, None, '"Ulm"}'),
    ToolCallDelta(2, "call_c", "sql", "select 1", custom=True),
    RefusalDelta("No"),
    RefusalDelta("!"),
]

_sdk_response_event = TypeAdapter[ResponseStreamEvent](ResponseStreamEvent)
_sdk_message_event = TypeAdapter[anthropic_wire.RawMessageStreamEvent](anthropic_wire.RawMessageStreamEvent)


def response_events(deltas: list[Delta]) -> list[Event]:
    """A provider's stream whose item ids differ from those that our writer would give."""
    writer = responses.StreamWriter(META)
    stream = b"".join([writer.write(delta) for delta in deltas]) + writer.end("stop", USAGE)
    return Splitter().feed(stream.replace(b"_theirs_", b"_0a9f"))


def end_after(events: list[Event]) -> bytes:
    """The stream that is cut after these events, with the end that the tracker writes."""
    reader, tracker = responses.StreamReader(), responses.StreamTracker()
    for each in events:
        tracker.follow(each.raw, tuple(reader.read(each)), 1)
    return b"".join(each.raw for each in events) + tracker.end(META, "length", USAGE)


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_a_response_that_is_cut_anywhere_is_valid_to_the_sdk(data: st.DataObject) -> None:
    whole = response_events(
        data.draw(st.permutations(ALL_KINDS_OF_DELTAS[:3]).map(lambda first: [*first, *ALL_KINDS_OF_DELTAS[3:]]))
    )
    events = whole[: data.draw(st.integers(1, len(whole) - 1))]
    state = ResponseStreamState[object](input_tools=omit, text_format=omit)
    begun, open_items, parsed_events = [], set(), []
    for number, each in enumerate(Splitter().feed(end_after(events))):
        parsed: Any = _sdk_response_event.validate_json(each.data)
        state.handle_event(parsed)
        assert parsed.sequence_number == number
        parsed_events.append(parsed)
        if parsed.type == "response.output_item.added":
            begun.append(parsed.item.id)
            open_items.add(parsed.output_index)
        elif parsed.type == "response.output_item.done":
            open_items.remove(parsed.output_index)
    assert open_items == set()
    assert parsed_events[-1].type == "response.incomplete"
    assert [item.id for item in parsed_events[-1].response.output] == begun
    text = "".join(each.delta for each in parsed_events if each.type == "response.output_text.delta")
    assert parsed_events[-1].response.output_text == text
    (usage,) = [each.response.usage for each in parsed_events if each.type == "response.incomplete"]
    assert usage.total_tokens == USAGE.total_tokens


def item_event(index: int, ending: str, **fields: Any) -> bytes:
    kind = f"response.output_item.{ending}"
    document = {"type": kind, "sequence_number": 0, "output_index": index, "item": fields or None}
    return event(orjson.dumps(document), kind)


@pytest.mark.parametrize(
    ("raw", "ids"),
    [
        (item_event(0, "added", type="reasoning", id="rs_x", summary=[]), ["rs_x"]),
        (item_event(7, "added", type="computer_call", id="cu_x"), ["cu_x"]),
        (item_event(10**12, "added", type="message", id="far"), ["far"]),
        (item_event(0, "added", type="message"), ["None"]),
        (item_event(0, "added"), [None]),
        (item_event(0, "done"), [None]),
        (item_event(3, "done", type="message", id="only", content=[]), ["only"]),
        (item_event(0, "added", type="message", id="x", note="AA").replace(b"AA", b"\xff"), []),
    ],
)
def test_malformed_items_are_ended_too(raw: bytes, ids: list[Any]) -> None:
    (event,) = Splitter().feed(raw)
    last = orjson.loads(Splitter().feed(end_after([event]))[-1].data)
    assert last["type"] == "response.incomplete"
    assert [one.get("id") for one in last["response"]["output"]] == ids


def test_an_encrypted_reasoning_item_is_ended_without_content() -> None:
    (event,) = Splitter().feed(
        item_event(0, "added", type="reasoning", id="rs_x", summary=[], encrypted_content="gAAA")
    )
    _, done, _ = Splitter().feed(end_after([event]))
    assert orjson.loads(done.data)["item"] == {"id": "rs_x", "type": "reasoning", "summary": []}


def message_events() -> list[Event]:
    """A provider's stream with a block of an unknown type, so that the indexes are not those of the known blocks."""
    writer = messages.StreamWriter(META)
    stream = b"".join([writer.write(delta) for delta in ALL_KINDS_OF_DELTAS[:7]])
    (first, *rest) = Splitter().feed(stream)
    unknown = {"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "x"}}
    moved = []
    for each in rest:
        document = orjson.loads(each.data)
        document["index"] += 1
        moved.append(event(orjson.dumps(document), document["type"]))
    stop = event(orjson.dumps({"type": "content_block_stop", "index": 0}), "content_block_stop")
    start = event(orjson.dumps(unknown), "content_block_start")
    return Splitter().feed(b"".join([first.raw, start, stop, *moved]))


@pytest.mark.parametrize("event_count", range(1, len(message_events()) + 1))
def test_a_message_that_is_cut_anywhere_is_valid_to_the_sdk(event_count: int) -> None:
    events = message_events()[:event_count]
    tracker = messages.StreamTracker()
    for each in events:
        tracker.follow(each.raw)
    stream = b"".join(each.raw for each in events) + tracker.end("length", USAGE)
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    open_blocks = set()
    for each in Splitter().feed(stream):
        parsed = _sdk_message_event.validate_json(each.data)
        snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
        if parsed.type == "content_block_start":
            open_blocks.add(parsed.index)
        elif parsed.type == "content_block_stop":
            open_blocks.remove(parsed.index)
    assert open_blocks == set()
    assert (snapshot.stop_reason, snapshot.usage.output_tokens) == ("max_tokens", USAGE.output_tokens)


def test_text_that_contains_an_event_name_ends_no_block() -> None:
    tracker = messages.StreamTracker()
    start = {"type": "content_block_start", "index": 4, "content_block": {"type": "text", "text": ""}}
    delta = {"type": "text_delta", "text": 'the event "content_block_stop"'}
    tracker.follow(event(orjson.dumps(start), "content_block_start"))
    tracker.follow(event(orjson.dumps({"type": "content_block_delta", "index": 4, "delta": delta})))
    first, *_ = Splitter().feed(tracker.end("length", USAGE))
    assert orjson.loads(first.data) == {"type": "content_block_stop", "index": 4}
