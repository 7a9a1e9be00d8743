"""What someone else has begun and we must end: wherever it is cut, their own clients take the whole for one answer."""

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

HEAD = ResponseMeta("resp_theirs", "gpt-x", 1_700_000_000)
USAGE = Usage(20, 12)
EVERYTHING: list[Delta] = [
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

_known_response = TypeAdapter[ResponseStreamEvent](ResponseStreamEvent)
_known_message = TypeAdapter[anthropic_wire.RawMessageStreamEvent](anthropic_wire.RawMessageStreamEvent)


def response_events(deltas: list[Delta]) -> list[Event]:
    """A provider's stream, whose items have names that nobody could guess."""
    writer = responses.StreamWriter(HEAD)
    stream = b"".join([writer.write(delta) for delta in deltas]) + writer.end("stop", USAGE)
    return Splitter().feed(stream.replace(b"_theirs_", b"_0a9f"))


def cut(events: list[Event]) -> bytes:
    reader, follower = responses.StreamReader(), responses.StreamTracker()
    for each in events:
        follower.follow(each.raw, tuple(reader.read(each)))
    return b"".join(each.raw for each in events) + follower.end(HEAD, "length", USAGE)


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_a_response_that_is_cut_anywhere_is_one_answer_to_the_sdk(data: st.DataObject) -> None:
    whole = response_events(data.draw(st.permutations(EVERYTHING[:3]).map(lambda first: [*first, *EVERYTHING[3:]])))
    events = whole[: data.draw(st.integers(1, len(whole) - 1))]
    state = ResponseStreamState[object](input_tools=omit, text_format=omit)
    begun, open_items, told = [], set(), []
    for number, each in enumerate(Splitter().feed(cut(events))):
        known: Any = _known_response.validate_json(each.data)
        state.handle_event(known)
        assert known.sequence_number == number
        told.append(known)
        if known.type == "response.output_item.added":
            begun.append(known.item.id)
            open_items.add(known.output_index)
        elif known.type == "response.output_item.done":
            open_items.remove(known.output_index)
    assert open_items == set()
    assert told[-1].type == "response.incomplete"
    assert [item.id for item in told[-1].response.output] == begun
    spoken = "".join(each.delta for each in told if each.type == "response.output_text.delta")
    assert told[-1].response.output_text == spoken
    (usage,) = [each.response.usage for each in told if each.type == "response.incomplete"]
    assert usage.total_tokens == USAGE.total_tokens


def item(index: int, ending: str, **fields: Any) -> bytes:
    kind = f"response.output_item.{ending}"
    document = {"type": kind, "sequence_number": 0, "output_index": index, "item": fields or None}
    return event(orjson.dumps(document), kind)


@pytest.mark.parametrize(
    ("raw", "ids"),
    [
        (item(0, "added", type="reasoning", id="rs_x", summary=[]), ["rs_x"]),
        (item(7, "added", type="computer_call", id="cu_x"), ["cu_x"]),
        (item(10**12, "added", type="message", id="far"), ["far"]),
        (item(0, "added", type="message"), ["None"]),
        (item(0, "added"), [None]),
        (item(0, "done"), [None]),
        (item(3, "done", type="message", id="only", content=[]), ["only"]),
        (item(0, "added", type="message", id="x", note="AA").replace(b"AA", b"\xff"), []),
    ],
)
def test_strange_beginnings_are_ended_too(raw: bytes, ids: list[Any]) -> None:
    (event,) = Splitter().feed(raw)
    last = orjson.loads(Splitter().feed(cut([event]))[-1].data)
    assert last["type"] == "response.incomplete"
    assert [one.get("id") for one in last["response"]["output"]] == ids


def test_a_thought_that_nobody_may_read_is_ended_without_words() -> None:
    (event,) = Splitter().feed(item(0, "added", type="reasoning", id="rs_x", summary=[], encrypted_content="gAAA"))
    _, done, _ = Splitter().feed(cut([event]))
    assert orjson.loads(done.data)["item"] == {"id": "rs_x", "type": "reasoning", "summary": []}


def message_events() -> list[Event]:
    """A provider's stream, with a block in it that we do not know: places cannot be counted."""
    writer = messages.StreamWriter(HEAD)
    stream = b"".join([writer.write(delta) for delta in EVERYTHING[:7]])
    (first, *rest) = Splitter().feed(stream)
    unknown = {"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "x"}}
    moved = []
    for each in rest:
        document = orjson.loads(each.data)
        document["index"] += 1
        moved.append(event(orjson.dumps(document), document["type"]))
    stop = event(orjson.dumps({"type": "content_block_stop", "index": 0}), "content_block_stop")
    told = event(orjson.dumps(unknown), "content_block_start")
    return Splitter().feed(b"".join([first.raw, told, stop, *moved]))


@pytest.mark.parametrize("heard", range(1, len(message_events()) + 1))
def test_a_message_that_is_cut_anywhere_is_one_answer_to_the_sdk(heard: int) -> None:
    events = message_events()[:heard]
    follower = messages.StreamTracker()
    for each in events:
        follower.follow(each.raw)
    stream = b"".join(each.raw for each in events) + follower.end("length", USAGE)
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    open_blocks = set()
    for each in Splitter().feed(stream):
        known = _known_message.validate_json(each.data)
        snapshot = accumulate_event(event=known, current_snapshot=snapshot, json_bufs=buffers)
        if known.type == "content_block_start":
            open_blocks.add(known.index)
        elif known.type == "content_block_stop":
            open_blocks.remove(known.index)
    assert open_blocks == set()
    assert (snapshot.stop_reason, snapshot.usage.output_tokens) == ("max_tokens", USAGE.output_tokens)


def test_words_that_sound_like_an_end_end_nothing() -> None:
    follower = messages.StreamTracker()
    start = {"type": "content_block_start", "index": 4, "content_block": {"type": "text", "text": ""}}
    said = {"type": "text_delta", "text": 'they say "content_block_stop"'}
    follower.follow(event(orjson.dumps(start), "content_block_start"))
    follower.follow(event(orjson.dumps({"type": "content_block_delta", "index": 4, "delta": said})))
    first, *_ = Splitter().feed(follower.end("length", USAGE))
    assert orjson.loads(first.data) == {"type": "content_block_stop", "index": 4}
