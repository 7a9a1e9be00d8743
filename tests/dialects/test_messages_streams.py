"""Streamed answers in the messages format, read and written."""

from typing import Any

import anthropic.types as wire
import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types.shared import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tollkeeper.chat import Delta, Finish, InputTokens, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.dialects import messages, sse
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError
from tollkeeper.dialects.response_meta import ResponseMeta

META = ResponseMeta("chg_1", "our-claude", 1_700_000_000)
USAGE = Usage(18, 7, 5, 3, 4)

_event = TypeAdapter[wire.RawMessageStreamEvent](wire.RawMessageStreamEvent)


def make_event(document: Any, name: str = "") -> sse.Event:
    return sse.Event(b"", name.encode(), orjson.dumps(document))


def read_all(*documents: dict[str, Any]) -> list[Delta]:
    reader = messages.StreamReader()
    return [delta for document in documents for delta in reader.read(make_event(document))]


def write_stream(*deltas: Delta, reason: str = "stop") -> bytes:
    writer = messages.StreamWriter(META)
    return b"".join(writer.write(delta) for delta in deltas) + writer.end(reason, USAGE)


def accumulated_by_sdk(stream: bytes) -> wire.Message:
    """The message that the SDK accumulates from a stream, after it has validated every event."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in sse.Splitter().feed(stream):
        parsed = _event.validate_json(event.data)
        assert event.name == parsed.type.encode()
        snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
    return wire.Message.model_validate(snapshot.to_dict())


def block_start(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def block_delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def block_stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def message_start(**usage: int) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "type": "message", "content": [], "usage": usage}}


def message_delta(reason: str | None, **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


def test_a_stream_is_read_as_deltas() -> None:
    assert read_all(
        message_start(input_tokens=10, cache_read_input_tokens=5, output_tokens=1),
        block_start(0, "thinking", thinking="", signature=""),
        {"type": "ping"},
        block_delta(0, "thinking_delta", thinking="hm"),
        block_delta(0, "signature_delta", signature="s"),
        block_stop(0),
        block_start(1, "text", text=""),
        block_delta(1, "text_delta", text="Hi"),
        block_stop(1),
        block_start(2, "tool_use", id="t1", name="f", input={}),
        block_delta(2, "input_json_delta", partial_json=""),
        block_delta(2, "input_json_delta", partial_json='{"a":'),
        block_delta(2, "input_json_delta", partial_json="1}"),
        block_stop(2),
        block_start(3, "tool_use", id="t2", name="g", input={}),
        block_stop(3),
        {"type": "unknown_event", "index": 4},
        message_delta("tool_use", output_tokens=7, output_tokens_details={"thinking_tokens": 4}),
        {"type": "message_stop"},
    ) == [
        InputTokens(15),
        ReasoningDelta("hm"),
        TextDelta("Hi"),
        ToolCallDelta(0, "t1", "f", ""),
        ToolCallDelta(0, None, None, '{"a":'),
        ToolCallDelta(0, None, None, "1}"),
        ToolCallDelta(1, "t2", "g", ""),
        ToolCallDelta(1, None, None, "{}"),
        Finish("tool_calls"),
        Usage(15, 7, 5, 0, 4),
    ]


def test_calls_of_the_providers_own_tools_are_not_read() -> None:
    theirs = block_start(0, "server_tool_use", id="s", name="web_search", input={})
    assert read_all(theirs, block_delta(0, "input_json_delta", partial_json="{}"), block_stop(0)) == []


def test_the_content_of_a_block_start_is_read() -> None:
    whole = block_start(1, "tool_use", id="t", name="f", input={"a": 1})
    assert read_all(block_start(0, "text", text="Hi"), whole, block_stop(1)) == [
        TextDelta("Hi"),
        ToolCallDelta(0, "t", "f", '{"a":1}'),
    ]


def test_a_repeated_block_start_is_another_tool_call() -> None:
    deltas = read_all(
        *[block_start(0, "tool_use", id="t", name="f", input={})] * 2, block_start(1, "tool_use", id="u", name="g")
    )
    assert [delta.index for delta in deltas if isinstance(delta, ToolCallDelta)] == [0, 1, 2]


def test_message_start_is_read_as_input_tokens_not_as_a_usage_report() -> None:
    """Its output count is that of an empty message. Input read from and written to the cache is input."""
    start = message_start(input_tokens=2, cache_read_input_tokens=5, cache_creation_input_tokens=3, output_tokens=1)
    assert read_all(start) == [InputTokens(10)]
    assert read_all(start, {"type": "message_delta", "delta": {}}) == [InputTokens(10)]
    assert read_all(message_delta("end_turn")) == [Finish("stop")]


@pytest.mark.parametrize(
    "usage", [{}, {"input_tokens": 0, "output_tokens": 0}, {"input_tokens": -1, "output_tokens": 0}]
)
def test_an_input_of_zero_or_less_is_not_read(usage: dict[str, int]) -> None:
    assert read_all(message_start(**usage)) == []


def test_later_token_counts_replace_earlier_ones() -> None:
    deltas = read_all(
        message_start(input_tokens=10, output_tokens=1), message_delta(None, output_tokens=3, input_tokens=None)
    )
    assert deltas == [InputTokens(10), Usage(10, 3)]


def test_the_explanation_of_a_refusal_is_read() -> None:
    end = message_delta("refusal", input_tokens=1, output_tokens=0)
    end["delta"]["stop_details"] = {"type": "refusal", "category": None, "explanation": "I must not."}
    assert read_all(end) == [RefusalDelta("I must not."), Finish("refusal"), Usage(1, 0)]


def test_only_message_delta_and_message_stop_are_last() -> None:
    reader = messages.StreamReader()
    seen = []
    for document in (
        message_start(),
        block_start(0, "text", text="a"),
        block_stop(0),
        message_delta("end_turn"),
        {"type": "message_stop"},
    ):
        reader.read(make_event(document))
        seen.append((reader.last, reader.finished))
    assert seen == [(False, False)] * 3 + [(True, True)] * 2


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "secret"}}),
        ("", {"type": "error", "error": {"type": "overloaded_error", "message": "secret"}}),
        ("error", {"message": "secret"}),
        ("ping", {"type": "ping", "error": {"message": "secret"}}),
    ],
)
def test_an_error_event_raises_without_its_text(name: str, document: dict[str, Any]) -> None:
    with pytest.raises(ProviderSentError) as raised:
        messages.StreamReader().read(make_event(document, name))
    assert "secret" not in repr(raised.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{", b'{"detail":"secret"}', b'{"message":"secret","code":400}', b"\xff", b"[" * 9999],
)
def test_an_event_that_cannot_be_decoded_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        messages.StreamReader().read(sse.Event(b"", b"", data))


scalars = st.none() | st.booleans() | st.integers(-5, 2**40) | st.text(max_size=3) | st.lists(st.none(), max_size=1)
kinds = st.sampled_from(
    ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"]
)
inner = st.dictionaries(
    st.sampled_from(["type", "text", "partial_json", "stop_reason", "usage", "input", "id", "name", "stop_details"]),
    scalars | st.sampled_from(["tool_use", "text", "input_json_delta", "text_delta"]) | st.just({"input_tokens": 1}),
)
events = st.fixed_dictionaries(
    {"type": kinds | scalars},
    optional={"index": scalars, "delta": inner | scalars, "content_block": inner | scalars, "message": inner | scalars}
    | {"usage": st.dictionaries(st.sampled_from(["input_tokens", "output_tokens"]), scalars) | scalars},
)


@given(st.lists(events, max_size=6))
def test_a_random_stream_raises_only_the_documented_errors(documents: list[dict[str, Any]]) -> None:
    reader = messages.StreamReader()
    for document in documents:
        try:
            deltas = reader.read(make_event(document))
        except (MalformedAnswer, ProviderSentError):
            continue
        assert all(delta.text for delta in deltas if isinstance(delta, TextDelta))


def test_the_sdk_accumulates_the_stream_that_is_written() -> None:
    message = accumulated_by_sdk(
        write_stream(
            ReasoningDelta("h"),
            ReasoningDelta("m"),
            TextDelta("It "),
            TextDelta("rains."),
            ToolCallDelta(0, "t1", "f", '{"city":'),
            ToolCallDelta(0, None, None, '"Ulm"}'),
            ToolCallDelta(1, "t2", "g", ""),
            reason="tool_calls",
        )
    )
    assert (message.id, message.model, message.stop_reason) == ("chg_1", "our-claude", "tool_use")
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    thinking, text, first, second = message.content
    assert isinstance(thinking, wire.ThinkingBlock)
    assert isinstance(text, wire.TextBlock)
    assert isinstance(first, wire.ToolUseBlock)
    assert isinstance(second, wire.ToolUseBlock)
    assert (thinking.thinking, text.text) == ("hm", "It rains.")
    assert (first.id, first.name, first.input, second.input) == ("t1", "f", {"city": "Ulm"}, {})
    assert (message.usage.input_tokens, message.usage.output_tokens) == (10, 7)


def test_interleaved_deltas_of_tool_calls_are_written_to_their_own_blocks() -> None:
    message = accumulated_by_sdk(
        write_stream(
            ToolCallDelta(0, "a", "f", '{"x":'),
            ToolCallDelta(1, "b", "g", '{"y":'),
            ToolCallDelta(0, None, None, "1}"),
            ToolCallDelta(1, None, None, "2}"),
        )
    )
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"x": 1}, {"y": 2}]


def block_events(*deltas: Delta) -> list[tuple[str, int]]:
    """The kinds of the events of blocks, with the indexes of their blocks, as they are written."""
    documents = [orjson.loads(event.data) for event in sse.Splitter().feed(write_stream(*deltas))]
    return [(one["type"].removeprefix("content_block_"), one["index"]) for one in documents if "index" in one]


PARTS_OF_CALLS: dict[str, list[Delta]] = {
    "heads first": [
        ToolCallDelta(0, "a", "f", ""),
        ToolCallDelta(1, "b", "g", ""),
        *[ToolCallDelta(0, None, None, text) for text in ('{"x":', "1}")],
        *[ToolCallDelta(1, None, None, text) for text in ('{"y":', "2}")],
    ],
    "alternating": [
        ToolCallDelta(0, "a", "f", '{"x"'),
        ToolCallDelta(1, "b", "g", '{"y"'),
        TextDelta("Hm"),
        ToolCallDelta(1, None, None, ":2}"),
        ToolCallDelta(0, None, None, ":1}"),
    ],
    "the later one first": [
        ToolCallDelta(0, "a", "f", ""),
        ToolCallDelta(1, "b", "g", '{"y":2}'),
        ToolCallDelta(0, None, None, '{"x":1}'),
    ],
    "never whole": [
        ToolCallDelta(0, "a", "f", '{"x":'),
        ToolCallDelta(1, "b", "g", '{"y":'),
        ToolCallDelta(0, None, None, "1"),
    ],
}


@pytest.mark.parametrize("parts", PARTS_OF_CALLS.values(), ids=PARTS_OF_CALLS)
def test_one_block_is_open_at_a_time_whatever_the_order_of_the_deltas(parts: list[Delta]) -> None:
    events = block_events(TextDelta("Hi"), *parts)
    assert [index for _, index in events] == sorted(index for _, index in events)
    for index in {index for _, index in events}:
        kinds = [kind for kind, at in events if at == index]
        assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == ("start", {"delta"}, "stop")


def test_a_tool_call_whose_arguments_are_whole_ends_when_the_next_one_begins() -> None:
    writer = messages.StreamWriter(META)
    writer.write(ToolCallDelta(0, "a", "f", '{"x":1}'))
    assert b"content_block_stop" in writer.write(ToolCallDelta(1, "b", "g", ""))
    assert b"content_block_start" in writer.write(ToolCallDelta(1, None, None, "{"))


def test_a_tool_name_in_pieces_is_written_whole() -> None:
    pieces = [
        ToolCallDelta(0, "a", "get_", ""),
        ToolCallDelta(0, None, "weather", ""),
        ToolCallDelta(0, None, None, "{}"),
    ]
    for deltas in (pieces, pieces[:2]):
        [block] = accumulated_by_sdk(write_stream(*deltas)).content
        assert block.type == "tool_use"
        assert block.name == "get_weather"


@pytest.mark.parametrize(
    ("reason", "written"),
    [("content_filter", "refusal"), ("length", "max_tokens"), ("abort", "end_turn"), ("STOP", "end_turn")],
)
def test_a_finish_reason_that_is_unknown_here_is_written_as_end_turn(reason: str, written: str) -> None:
    assert accumulated_by_sdk(write_stream(TextDelta("Hi"), reason=reason)).stop_reason == written


def test_the_input_of_a_custom_tool_is_written_as_an_object() -> None:
    """Also if text is written between its deltas."""
    message = accumulated_by_sdk(
        write_stream(
            ToolCallDelta(0, "a", "sql", 'sel"', custom=True),
            ToolCallDelta(1, "b", "sql", "", custom=True),
            TextDelta("Hm"),
            ToolCallDelta(0, None, None, "ect", custom=True),
        )
    )
    given = [block.input for block in message.content if block.type == "tool_use"]
    assert given == [{"input": 'sel"ect'}, {"input": ""}]


def test_an_empty_answer_is_a_complete_stream() -> None:
    message = accumulated_by_sdk(write_stream(TextDelta(""), Finish("length"), USAGE, reason="length"))
    assert (message.content, message.stop_reason) == ([], "max_tokens")


def test_a_refusal_from_another_format_is_written_as_a_refusal() -> None:
    message = accumulated_by_sdk(write_stream(RefusalDelta("No"), RefusalDelta(".")))
    assert [block.text for block in message.content if block.type == "text"] == ["No."]
    assert message.stop_reason == "refusal"


@pytest.mark.parametrize(
    ("code", "name"), [("provider_timeout", "timeout_error"), ("provider_error", "api_error"), ("other", "api_error")]
)
def test_a_written_stream_error_is_valid_to_the_sdk(code: str, name: str) -> None:
    (event,) = sse.Splitter().feed(messages.write_stream_error(code, "It broke."))
    error = ErrorResponse.model_validate_json(event.data)
    assert (event.name, error.error.type, error.error.message) == (b"error", name, "It broke.")


def joined(deltas: list[Delta]) -> list[Any]:
    """The deltas, those joined that follow on one of the same kind and call: blocks that waited are written whole."""
    kinds: list[Any] = []
    kind: Any
    for delta in deltas:
        match delta:
            case TextDelta(text) | ReasoningDelta(text):
                kind, content = type(delta), text
            case ToolCallDelta(index, _, _, arguments):
                kind, content = index, arguments
            case _:
                kind, content = delta, ""
        if kinds and kinds[-1][0] == kind:
            kinds[-1][1] += content
        else:
            kinds.append([kind, content])
    return kinds


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
contents = st.lists(
    words.map(TextDelta) | words.map(ReasoningDelta) | st.lists(words, min_size=1, max_size=2).map(tuple), max_size=5
)


@given(contents, st.sampled_from(["stop", "length", "tool_calls", "refusal"]))
def test_a_written_stream_is_read_back_unchanged(parts: list[Any], reason: str) -> None:
    deltas: list[Delta] = []
    calls = 0
    for part in parts:
        if isinstance(part, TextDelta | ReasoningDelta):
            deltas.append(part)
            continue
        deltas.append(ToolCallDelta(calls, f"t{calls}", "f", ""))
        deltas += [ToolCallDelta(calls, None, None, arguments) for arguments in part]
        calls += 1
    read_reason = "tool_calls" if calls and reason == "stop" else reason
    if reason == "tool_calls" and not calls:
        read_reason = "stop"
    reader = messages.StreamReader()
    events = sse.Splitter().feed(write_stream(*deltas, reason=reason))
    found = [delta for event in events for delta in reader.read(event)]
    assert joined(found) == joined([*deltas, Finish(read_reason), USAGE])
    assert reader.last
    assert reader.finished
