"""The messages wire: streamed answers, read and written."""

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

HEAD = ResponseMeta("chg_1", "our-claude", 1_700_000_000)
USAGE = Usage(18, 7, 5, 3, 4)

_event = TypeAdapter[wire.RawMessageStreamEvent](wire.RawMessageStreamEvent)


def said(document: Any, name: str = "") -> sse.Event:
    return sse.Event(b"", name.encode(), orjson.dumps(document))


def read_all(*documents: dict[str, Any]) -> list[Delta]:
    reader = messages.StreamReader()
    return [delta for document in documents for delta in reader.read(said(document))]


def streamed(*deltas: Delta, reason: str = "stop") -> bytes:
    writer = messages.StreamWriter(HEAD)
    return b"".join(writer.write(delta) for delta in deltas) + writer.end(reason, USAGE)


def as_the_client_sees(stream: bytes) -> wire.Message:
    """The message that the client's own code makes of a stream, every event of which it knows."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in sse.Splitter().feed(stream):
        known = _event.validate_json(event.data)
        assert event.name == known.type.encode()
        snapshot = accumulate_event(event=known, current_snapshot=snapshot, json_bufs=buffers)
    return wire.Message.model_validate(snapshot.to_dict())


def block(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def piece(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def started(**usage: int) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "type": "message", "content": [], "usage": usage}}


def ended(reason: str | None, **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


def test_a_stream_is_read_piece_by_piece() -> None:
    assert read_all(
        started(input_tokens=10, cache_read_input_tokens=5, output_tokens=1),
        block(0, "thinking", thinking="", signature=""),
        {"type": "ping"},
        piece(0, "thinking_delta", thinking="hm"),
        piece(0, "signature_delta", signature="s"),
        stop(0),
        block(1, "text", text=""),
        piece(1, "text_delta", text="Hi"),
        stop(1),
        block(2, "tool_use", id="t1", name="f", input={}),
        piece(2, "input_json_delta", partial_json=""),
        piece(2, "input_json_delta", partial_json='{"a":'),
        piece(2, "input_json_delta", partial_json="1}"),
        stop(2),
        block(3, "tool_use", id="t2", name="g", input={}),
        stop(3),
        {"type": "something_of_the_future", "index": 4},
        ended("tool_use", output_tokens=7, output_tokens_details={"thinking_tokens": 4}),
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


def test_a_tool_of_the_providers_own_is_not_ours() -> None:
    theirs = block(0, "server_tool_use", id="s", name="web_search", input={})
    assert read_all(theirs, piece(0, "input_json_delta", partial_json="{}"), stop(0)) == []


def test_what_a_block_brings_at_once_is_not_lost() -> None:
    whole = block(1, "tool_use", id="t", name="f", input={"a": 1})
    assert read_all(block(0, "text", text="Hi"), whole, stop(1)) == [
        TextDelta("Hi"),
        ToolCallDelta(0, "t", "f", '{"a":1}'),
    ]


def test_a_repeated_beginning_is_another_call() -> None:
    deltas = read_all(*[block(0, "tool_use", id="t", name="f", input={})] * 2, block(1, "tool_use", id="u", name="g"))
    assert [delta.index for delta in deltas if isinstance(delta, ToolCallDelta)] == [0, 1, 2]


def test_the_first_event_tells_the_input_and_is_no_report() -> None:
    """It counts what was written before anything was. Input from and for the cache is input."""
    told = started(input_tokens=2, cache_read_input_tokens=5, cache_creation_input_tokens=3, output_tokens=1)
    assert read_all(told) == [InputTokens(10)]
    assert read_all(told, {"type": "message_delta", "delta": {}}) == [InputTokens(10)]
    assert read_all(ended("end_turn")) == [Finish("stop")]


@pytest.mark.parametrize(
    "usage", [{}, {"input_tokens": 0, "output_tokens": 0}, {"input_tokens": -1, "output_tokens": 0}]
)
def test_an_input_that_is_not_known_yet_is_not_told(usage: dict[str, int]) -> None:
    assert read_all(started(**usage)) == []


def test_later_counts_replace_earlier_ones() -> None:
    deltas = read_all(started(input_tokens=10, output_tokens=1), ended(None, output_tokens=3, input_tokens=None))
    assert deltas == [InputTokens(10), Usage(10, 3)]


def test_a_refusal_is_explained() -> None:
    end = ended("refusal", input_tokens=1, output_tokens=0)
    end["delta"]["stop_details"] = {"type": "refusal", "category": None, "explanation": "I must not."}
    assert read_all(end) == [RefusalDelta("I must not."), Finish("refusal"), Usage(1, 0)]


def test_what_ends_an_answer_is_known_as_such() -> None:
    reader = messages.StreamReader()
    seen = []
    for document in (started(), block(0, "text", text="a"), stop(0), ended("end_turn"), {"type": "message_stop"}):
        reader.read(said(document))
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
def test_an_error_of_the_provider_is_told_without_its_text(name: str, document: dict[str, Any]) -> None:
    with pytest.raises(ProviderSentError) as told:
        messages.StreamReader().read(said(document, name))
    assert "secret" not in repr(told.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"[DONE]", b"null", b"[]", b"{}", b'{"type":7}', b'{"type":"content_block_delta"}', b"\xff", b"[" * 9999],
)
def test_garbage_is_a_bad_answer(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        messages.StreamReader().read(sse.Event(b"", b"", data))


strange = st.none() | st.booleans() | st.integers(-5, 2**40) | st.text(max_size=3) | st.lists(st.none(), max_size=1)
kinds = st.sampled_from(
    ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"]
)
inner = st.dictionaries(
    st.sampled_from(["type", "text", "partial_json", "stop_reason", "usage", "input", "id", "name", "stop_details"]),
    strange | st.sampled_from(["tool_use", "text", "input_json_delta", "text_delta"]) | st.just({"input_tokens": 1}),
)
events = st.fixed_dictionaries(
    {"type": kinds | strange},
    optional={"index": strange, "delta": inner | strange, "content_block": inner | strange, "message": inner | strange}
    | {"usage": st.dictionaries(st.sampled_from(["input_tokens", "output_tokens"]), strange) | strange},
)


@given(st.lists(events, max_size=6))
def test_a_strange_stream_is_bad_and_breaks_nothing(documents: list[dict[str, Any]]) -> None:
    reader = messages.StreamReader()
    for document in documents:
        try:
            deltas = reader.read(said(document))
        except (MalformedAnswer, ProviderSentError):
            continue
        assert all(delta.text for delta in deltas if isinstance(delta, TextDelta))


def test_a_stream_is_written_as_the_client_knows_it() -> None:
    message = as_the_client_sees(
        streamed(
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


def test_pieces_of_calls_that_are_mixed_are_each_put_in_place() -> None:
    message = as_the_client_sees(
        streamed(
            ToolCallDelta(0, "a", "f", '{"x":'),
            ToolCallDelta(1, "b", "g", '{"y":'),
            ToolCallDelta(0, None, None, "1}"),
            ToolCallDelta(1, None, None, "2}"),
        )
    )
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"x": 1}, {"y": 2}]


def test_what_was_given_to_custom_tools_stands_in_an_object() -> None:
    """Whatever else is said between its pieces."""
    message = as_the_client_sees(
        streamed(
            ToolCallDelta(0, "a", "sql", 'sel"', custom=True),
            ToolCallDelta(1, "b", "sql", "", custom=True),
            TextDelta("Hm"),
            ToolCallDelta(0, None, None, "ect", custom=True),
        )
    )
    given = [block.input for block in message.content if block.type == "tool_use"]
    assert given == [{"input": 'sel"ect'}, {"input": ""}]


def test_an_answer_of_nothing_is_a_whole_stream() -> None:
    message = as_the_client_sees(streamed(TextDelta(""), Finish("length"), USAGE, reason="length"))
    assert (message.content, message.stop_reason) == ([], "max_tokens")


def test_a_refusal_of_another_wire_is_one_here() -> None:
    message = as_the_client_sees(streamed(RefusalDelta("No"), RefusalDelta(".")))
    assert [block.text for block in message.content if block.type == "text"] == ["No."]
    assert message.stop_reason == "refusal"


@pytest.mark.parametrize(
    ("code", "name"), [("provider_timeout", "timeout_error"), ("provider_error", "api_error"), ("other", "api_error")]
)
def test_a_break_is_an_event_that_the_client_knows(code: str, name: str) -> None:
    (event,) = sse.Splitter().feed(messages.write_stream_error(code, "It broke."))
    error = ErrorResponse.model_validate_json(event.data)
    assert (event.name, error.error.type, error.error.message) == (b"error", name, "It broke.")


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
pieces = st.lists(
    words.map(TextDelta) | words.map(ReasoningDelta) | st.lists(words, min_size=1, max_size=2).map(tuple), max_size=5
)


@given(pieces, st.sampled_from(["stop", "length", "tool_calls", "refusal"]))
def test_a_stream_comes_back_as_it_was(pieces: list[Any], reason: str) -> None:
    deltas: list[Delta] = []
    calls = 0
    for said_next in pieces:
        if isinstance(said_next, TextDelta | ReasoningDelta):
            deltas.append(said_next)
            continue
        deltas.append(ToolCallDelta(calls, f"t{calls}", "f", ""))
        deltas += [ToolCallDelta(calls, None, None, arguments) for arguments in said_next]
        calls += 1
    reader = messages.StreamReader()
    events = sse.Splitter().feed(streamed(*deltas, reason=reason))
    assert [delta for event in events for delta in reader.read(event)] == [*deltas, Finish(reason), USAGE]
    assert reader.last
    assert reader.finished
