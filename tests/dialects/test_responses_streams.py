"""Streamed answers in the responses format: written, read, and accumulated by the SDK."""

from collections.abc import Sequence
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import APIError, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from support.depth import examples
from tollkeeper.chat import (
    Completion,
    Delta,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses import StreamReader, StreamWriter, read_answer, write_stream_error
from tollkeeper.dialects.sse import Event, Splitter

META = ResponseMeta("resp_0123", "gpt-x", 1_700_000_000)
USAGE = Usage(20, 12, 4, 3, 5)
_sdk_event = TypeAdapter(ResponseStreamEvent)

texts = st.text(st.characters(codec="utf-8"), max_size=8)
random_deltas = st.lists(
    st.builds(TextDelta, texts)
    | st.builds(RefusalDelta, texts)
    | st.builds(ReasoningDelta, texts)
    | st.builds(ToolCallDelta, st.integers(0, 3), st.none(), st.none(), texts),
    max_size=12,
)


def number_calls(deltas: Sequence[Delta]) -> list[Delta]:
    """The deltas with their tool calls numbered by first appearance. The first delta of each has its id and name."""
    order: dict[int, int] = {}
    numbered: list[Delta] = []
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            first = delta.index not in order
            index = order.setdefault(delta.index, len(order))
            call_id, name = (f"call_{index}", f"tool_{index}") if first else (None, None)
            numbered.append(ToolCallDelta(index, call_id, name, delta.arguments, custom=delta.index > 1))
        else:
            numbered.append(delta)
    return numbered


def write(deltas: list[Delta], finish: str = "stop") -> bytes:
    writer = StreamWriter(META)
    return b"".join([writer.write(delta) for delta in deltas]) + writer.end(finish, USAGE)


def split(stream: bytes) -> list[Event]:
    return Splitter().feed(stream)


def documents(stream: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(event.data) for event in split(stream)]


def read(stream: bytes) -> list[Delta]:
    reader = StreamReader()
    return [delta for event in split(stream) for delta in reader.read(event)]


def accumulate(deltas: list[Delta]) -> Completion:
    """The completion that the deltas add up to."""
    texts: dict[type[Delta], str] = {TextDelta: "", RefusalDelta: "", ReasoningDelta: ""}
    calls: dict[int, ToolCall] = {}
    for delta in deltas:
        match delta:
            case TextDelta(text) | RefusalDelta(text) | ReasoningDelta(text):
                texts[type(delta)] += text
            case ToolCallDelta(index, call_id, name, arguments, custom):
                call = calls.get(index, ToolCall(call_id or "", name or "", "", custom))
                calls[index] = call._replace(arguments=call.arguments + arguments)
    usage = [delta for delta in deltas if isinstance(delta, Usage)]
    reason = [delta.reason for delta in deltas if isinstance(delta, Finish)]
    return Completion(
        texts[TextDelta] or texts[RefusalDelta],
        reason[0] if reason else "",
        usage[0] if usage else None,
        tuple(calls[index] for index in sorted(calls)),
        texts[RefusalDelta] or None,
        texts[ReasoningDelta] or None,
    )


ALL_KINDS_OF_DELTAS: list[Delta] = [
    ReasoningDelta("Hm"),
    ReasoningDelta("."),
    TextDelta("Let me"),
    TextDelta(" see."),
    ToolCallDelta(0, "call_a", "sky", ""),
    ToolCallDelta(0, None, None, '{"at":'),
    ToolCallDelta(1, "call_b", "sky", "{"),
    ToolCallDelta(0, None, None, '"Ulm"}'),
    ToolCallDelta(1, None, None, "}"),
    ToolCallDelta(2, "call_c", "sql", "select", custom=True),
    TextDelta("Well."),
    ToolCallDelta(2, None, None, " 1", custom=True),
    RefusalDelta("No"),
    RefusalDelta("!"),
]


@settings(max_examples=examples(150), deadline=None)
@given(random_deltas.map(number_calls), st.sampled_from(["stop", "length", "content_filter"]))
def test_a_written_stream_is_read_back_unchanged(deltas: list[Delta], finish: str) -> None:
    stream = write(deltas, finish)
    read_back = accumulate(read(stream))
    written = accumulate(deltas)
    reason = finish
    if finish == "stop":
        reason = "tool_calls" if written.tool_calls else "refusal" if written.refusal else "stop"
    calls = [call if call.custom else call._replace(arguments=call.arguments or "{}") for call in written.tool_calls]
    assert read_back == written._replace(finish_reason=reason, usage=USAGE, tool_calls=tuple(calls))


@settings(max_examples=examples(100), deadline=None)
@given(random_deltas.map(number_calls), st.sampled_from(["stop", "length"]))
def test_the_last_event_contains_the_whole_answer(deltas: list[Delta], finish: str) -> None:
    stream = write(deltas, finish)
    last = documents(stream)[-1]
    assert read_answer(orjson.dumps(last["response"])) == accumulate(read(stream))
    Response.model_validate(last["response"])


@settings(max_examples=examples(50), deadline=None)
@given(random_deltas.map(number_calls), st.sampled_from(["stop", "length", "content_filter"]))
def test_every_event_is_valid_to_the_sdk_and_numbered_without_gaps(deltas: list[Delta], finish: str) -> None:
    stream = write(deltas, finish)
    for number, (event, document) in enumerate(zip(split(stream), documents(stream), strict=True)):
        parsed = _sdk_event.validate_python(document)
        assert parsed.type == document["type"] == event.name.decode()
        assert parsed.sequence_number == number
        assert not parsed.model_extra, "a field that the SDK does not define"


def test_the_same_deltas_give_the_same_bytes() -> None:
    assert write(ALL_KINDS_OF_DELTAS) == write(ALL_KINDS_OF_DELTAS)


def test_the_events_are_written_in_the_documented_order() -> None:
    names = [event.name.decode().removeprefix("response.") for event in split(write([TextDelta("a"), TextDelta("b")]))]
    assert names == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


def test_finish_and_usage_are_written_only_at_the_end() -> None:
    writer = StreamWriter(META)
    assert writer.write(Finish("stop")) == writer.write(USAGE) == writer.write(TextDelta("")) == b""


def test_in_an_answer_cut_short_only_the_open_item_is_incomplete() -> None:
    cut = documents(write([ToolCallDelta(0, "a", "f", "{}"), TextDelta("Hal")], "length"))[-1]
    assert cut["type"] == "response.incomplete"
    assert cut["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in cut["response"]["output"]] == ["completed", "incomplete"]


def client(stream: bytes) -> OpenAI:
    def respond(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    return OpenAI(
        api_key="any",
        base_url="http://127.0.0.1:1/v1",
        http_client=httpx2.Client(transport=httpx2.MockTransport(respond)),
    )


def test_the_sdk_accumulates_the_stream_that_is_written() -> None:
    with client(write(ALL_KINDS_OF_DELTAS)) as openai, openai.responses.stream(model="m", input="Hi") as stream:
        streamed_text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        response = stream.get_final_response()
    assert streamed_text == response.output_text == "Let me see.Well."
    assert [item.type for item in response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "custom_tool_call",
        "message",
    ]
    custom = [(item.call_id, item.name, item.input) for item in response.output if item.type == "custom_tool_call"]
    assert custom == [("call_c", "sql", "select 1")]
    calls = [(item.call_id, item.arguments) for item in response.output if item.type == "function_call"]
    assert calls == [("call_a", '{"at":"Ulm"}'), ("call_b", "{}")]


@settings(max_examples=examples(25), deadline=None)
@given(random_deltas.map(number_calls))
def test_the_sdk_accumulates_random_streams(deltas: list[Delta]) -> None:
    with client(write(deltas)) as openai, openai.responses.stream(model="m", input="Hi") as stream:
        text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
        assert stream.get_final_response().output_text == text


def test_the_sdk_raises_for_the_error_event_that_ends_a_failed_stream() -> None:
    """The SDK reads `error` in the event; the API reference documents its fields beside `type`."""
    writer = StreamWriter(META)
    first_events = writer.write(TextDelta("a"))
    error_event = write_stream_error("server_error", "provider_interrupted", "It broke.", writer.sequence_number)
    with (
        client(first_events + error_event) as openai,
        openai.responses.create(model="m", input="Hi", stream=True) as stream,
        pytest.raises(APIError) as raised,
    ):
        list(stream)
    assert (raised.value.code, raised.value.type, raised.value.message) == (
        "provider_interrupted",
        "server_error",
        "It broke.",
    )
    last = documents(error_event)[0]
    assert (last["type"], last["code"], last["message"], last["sequence_number"]) == (
        "error",
        "provider_interrupted",
        "It broke.",
        5,
    )
    assert _sdk_event.validate_python(last).type == "error"


def test_only_the_final_event_and_done_are_last() -> None:
    reader = StreamReader()
    *before, end = split(write([TextDelta("a")]))
    for event in before:
        reader.read(event)
        assert (reader.last, reader.finished) == (False, False)
    for event in (end, Event(b"", b"", b"[DONE]")):
        reader.read(event)
        assert (reader.last, reader.finished) == (True, True)
