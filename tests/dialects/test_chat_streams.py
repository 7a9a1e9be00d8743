"""Streamed answers in the chat completions format, read and written."""

import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tollkeeper.chat import (
    Delta,
    Finish,
    InconsistentUsage,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from tollkeeper.dialects import chat, sse
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.gateway.accumulator import StreamAccumulator

META = ResponseMeta("chg_1", "ours", 1_700_000_000)
USAGE = Usage(18, 7, 5, 0, 4)
MESSAGE = b'{"message":"SECRET","code":400}'


def make_event(document: Any) -> sse.Event:
    return sse.Event(b"", b"", document if isinstance(document, bytes) else orjson.dumps(document))


def chunk(finish_reason: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


def usage(**reported: Any) -> dict[str, Any]:
    return {"choices": [], "usage": reported}


def read_all(*documents: dict[str, Any]) -> list[Delta]:
    reader = chat.StreamReader()
    return [delta for document in documents for delta in reader.read(make_event(document))]


def write_stream(*deltas: Delta, reason: str = "stop", with_usage: bool = True) -> bytes:
    writer = chat.StreamWriter(META, with_usage=with_usage)
    return b"".join(writer.write(delta) for delta in deltas) + writer.end(reason, USAGE)


def chunks_of(stream: bytes) -> list[ChatCompletionChunk]:
    """The chunks of a whole stream, validated by the SDK."""
    *events, done = sse.Splitter().feed(stream)
    assert done.data == b"[DONE]"
    return [ChatCompletionChunk.model_validate_json(event.data) for event in events]


def accumulated_by_sdk(stream: bytes) -> ChatCompletion:
    """The completion that the SDK accumulates from a stream."""
    state = ChatCompletionStreamState()
    for one in chunks_of(stream):
        state.handle_chunk(one)
    return ChatCompletion.model_validate(state.current_completion_snapshot.to_dict())


def test_a_stream_is_read_as_deltas() -> None:
    call = {"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert read_all(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="hm"),
        chunk(reasoning="hm"),
        chunk(content="Hi"),
        chunk(refusal="No."),
        chunk(tool_calls=[call]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}, {"index": 1, "id": "c1"}]),
        chunk("tool_calls"),
        usage(prompt_tokens=9, completion_tokens=2),
    ) == [
        ReasoningDelta("hm"),
        ReasoningDelta("hm"),
        TextDelta("Hi"),
        RefusalDelta("No."),
        ToolCallDelta(0, "c0", "f", ""),
        ToolCallDelta(0, None, None, "{}"),
        ToolCallDelta(1, "c1", "", ""),
        Finish("tool_calls"),
        Usage(9, 2),
    ]


def test_a_repeated_name_of_a_tool_call_is_read_once() -> None:
    call = {"index": 0, "id": "c0", "function": {"name": "f", "arguments": "x"}}
    assert read_all(*[chunk(tool_calls=[call])] * 2) == [
        ToolCallDelta(0, "c0", "f", "x"),
        ToolCallDelta(0, None, None, "x"),
    ]


def test_the_deprecated_function_call_is_read_as_a_tool_call() -> None:
    first, second, end = read_all(
        chunk(function_call={"name": "f", "arguments": "{"}),
        chunk(function_call={"arguments": "}"}),
        chunk("function_call"),
    )
    assert isinstance(first, ToolCallDelta)
    assert (first.index, first.name, first.arguments) == (0, "f", "{")
    assert (second, end) == (ToolCallDelta(0, None, None, "}"), Finish("tool_calls"))


def test_the_input_of_a_custom_tool_is_read_as_deltas() -> None:
    first = {"index": 0, "id": "c0", "type": "custom", "custom": {"name": "sql", "input": ""}}
    more = [{"index": 0, "custom": {"input": text}} for text in ("select", None, " 1")]
    assert read_all(chunk(tool_calls=[first]), *(chunk(tool_calls=[one]) for one in more)) == [
        ToolCallDelta(0, "c0", "sql", "", custom=True),
        ToolCallDelta(0, None, None, "select", custom=True),
        ToolCallDelta(0, None, None, "", custom=True),
        ToolCallDelta(0, None, None, " 1", custom=True),
    ]


def test_the_tool_calls_of_each_choice_are_tracked_separately() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}
    deltas = read_all(*(chunk(index=index, tool_calls=[call]) for index in (0, 1)))
    assert deltas == [ToolCallDelta(0, "c", "f", ""), ToolCallDelta(1, "c", "f", "")]


def test_the_usage_and_done_are_marked_as_last() -> None:
    reader = chat.StreamReader()
    seen = []
    for document in (chunk(content="Hi"), chunk("stop"), usage(prompt_tokens=1, completion_tokens=1), b"[DONE]"):
        reader.read(make_event(document))
        seen.append((reader.last, reader.finished))
    assert seen == [(False, False), (False, True), (True, True), (True, True)]


def test_a_running_usage_report_is_not_the_end() -> None:
    """Some servers report the usage so far in every chunk."""
    reader = chat.StreamReader()
    running = chunk(content="Hi") | {"usage": {"prompt_tokens": 9, "completion_tokens": 1}}
    assert reader.read(make_event(running)) == [TextDelta("Hi"), Usage(9, 1)]
    assert not reader.last


def test_an_impossible_usage_report_is_inconsistent() -> None:
    reader = chat.StreamReader()
    assert reader.read(make_event(usage(prompt_tokens=-1, completion_tokens=1))) == [InconsistentUsage(None, 1)]


def test_a_usage_report_is_the_end_only_after_the_finish_reason() -> None:
    reader = chat.StreamReader()
    assert reader.read(make_event(usage(prompt_tokens=9, completion_tokens=0))) == [Usage(9, 0)]
    assert not reader.last
    reader.read(make_event(chunk("stop")))
    reader.read(make_event(usage(prompt_tokens=9, completion_tokens=2)))
    assert reader.last


def test_content_may_be_a_list_of_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    reader = chat.StreamReader()
    assert reader.read(make_event(chunk(content=[thinking]))) == [ReasoningDelta("hm")]
    assert reader.read(make_event(chunk(content=[{"type": "text", "text": "Hi"}, thinking]))) == [
        ReasoningDelta("hm"),
        TextDelta("Hi"),
    ]
    assert reader.read(make_event(chunk(content=[]))) == []


@pytest.mark.parametrize("name", ["", "error"])
def test_the_usage_beside_an_error_is_read(name: str) -> None:
    document = {"error": {"message": "x"}, "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    with pytest.raises(ProviderSentError) as raised:
        chat.StreamReader().read(sse.Event(b"", name.encode(), orjson.dumps(document)))
    assert raised.value.usage == Usage(9, 2)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"detail":"SECRET"}', b'{"code":400}', MESSAGE]
)
def test_an_event_that_is_no_chunk_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        chat.StreamReader().read(make_event(data))


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ({"error": {"message": "SECRET"}}, b""),
        ({"error": "SECRET"}, b""),
        ({"error": {}}, b""),
        (chunk("error", content="SECRET"), b""),
        ({"choices": [{"delta": {}, "finish_reason": "stop", "error": {"message": "SECRET"}}]}, b""),
        ({"object": "error", "message": "SECRET", "type": "BadRequestError", "code": 400}, b""),
        ({"message": "SECRET"}, b"error"),
        (chunk(content="SECRET"), b"error"),
    ],
)
def test_an_error_event_in_any_form_raises_without_its_text(document: Any, name: bytes) -> None:
    with pytest.raises(ProviderSentError) as raised:
        chat.StreamReader().read(msgspec.structs.replace(make_event(document), name=name))
    assert "SECRET" not in repr(raised.value)


def test_the_sdk_accumulates_the_chunks_that_are_written() -> None:
    stream = write_stream(
        ReasoningDelta("hm"),
        TextDelta("He"),
        TextDelta("llo"),
        ToolCallDelta(0, "c0", "f", ""),
        ToolCallDelta(0, None, None, '{"a":'),
        ToolCallDelta(0, None, None, "1}"),
        ToolCallDelta(1, "c1", "g", "{}"),
        Usage(1, 1),
        Finish("stop"),
        reason="tool_calls",
    )
    seen = accumulated_by_sdk(stream)
    assert (seen.id, seen.model, seen.created) == META
    [choice] = seen.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hello", "tool_calls")
    calls_seen = [one.to_dict()["function"] for one in choice.message.tool_calls or ()]
    assert [(one["name"], one["arguments"]) for one in calls_seen] == [("f", '{"a":1}'), ("g", "{}")]  # type: ignore[index]
    assert seen.usage is not None
    assert (seen.usage.prompt_tokens, seen.usage.completion_tokens, seen.usage.total_tokens) == (18, 7, 25)


def test_only_the_first_chunk_has_the_role_and_only_the_last_the_finish_reason() -> None:
    chunks = chunks_of(write_stream(TextDelta("a"), TextDelta("b"), with_usage=False))
    assert [one.choices[0].delta.role for one in chunks] == ["assistant", None, None]
    assert [one.choices[0].finish_reason for one in chunks] == [None, None, "stop"]


def test_the_usage_is_an_optional_chunk_of_its_own() -> None:
    with_chunk, without = (chunks_of(write_stream(TextDelta("a"), with_usage=wanted)) for wanted in (True, False))
    assert [(one.choices, one.usage is not None) for one in with_chunk if not one.choices] == [([], True)]
    assert all(one.choices and one.usage is None for one in without)
    assert len(with_chunk) == len(without) + 1


def test_a_refusal_is_written_with_finish_reason_stop() -> None:
    [choice] = accumulated_by_sdk(write_stream(RefusalDelta("No."), reason="refusal")).choices
    assert (choice.message.refusal, choice.message.content, choice.finish_reason) == ("No.", None, "stop")


def test_an_empty_answer_is_a_complete_stream() -> None:
    [choice] = accumulated_by_sdk(write_stream()).choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")


def test_a_stream_that_failed_ends_with_an_error_event_and_without_done() -> None:
    [event] = sse.Splitter().feed(chat.write_stream_error("server_error", "provider_error", "It broke."))
    error = {"message": "It broke.", "type": "server_error", "param": None, "code": "provider_error"}
    assert orjson.loads(event.data) == {"error": error}


text_like_deltas = (
    st.builds(TextDelta, st.text(min_size=1, max_size=3))
    | st.builds(RefusalDelta, st.text(min_size=1, max_size=3))
    | st.builds(ReasoningDelta, st.text(min_size=1, max_size=3))
)
calls = st.lists(st.tuples(st.text(max_size=3), st.lists(st.text(max_size=3), max_size=3), st.booleans()), max_size=3)


@given(
    st.lists(text_like_deltas, max_size=6), calls, st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
)
def test_what_is_written_is_valid_to_the_sdk_and_read_back_unchanged(
    text_deltas: list[Delta], called: list[tuple[str, list[str], bool]], reason: str
) -> None:
    deltas = list(text_deltas)
    for index, (name, arguments, custom) in enumerate(called):
        deltas.append(ToolCallDelta(index, f"c{index}", name, "", custom))
        deltas += [ToolCallDelta(index, None, None, one, custom) for one in arguments]
    stream = write_stream(*deltas, reason=reason)
    if not any(custom for _, _, custom in called):  # the SDK's types of chunks have no custom tools
        chunks_of(stream)
    written, read, reader = StreamAccumulator(), StreamAccumulator(), chat.StreamReader()
    if called:
        read_reason = "tool_calls" if reason == "stop" else reason
    else:
        read_reason = "stop" if reason == "tool_calls" else reason
    empty = [number for number, (_, arguments, custom) in enumerate(called) if not custom and not any(arguments)]
    written.add((*deltas, *[ToolCallDelta(number, None, None, "{}") for number in empty], Finish(read_reason), USAGE))
    for event in sse.Splitter().feed(stream):
        read.add(tuple(reader.read(event)))
    assert read.completion() == written.completion()
    assert (read.text_bytes, reader.finished, reader.last) == (written.text_bytes, True, True)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
functions = json_values | st.fixed_dictionaries({}, optional={"name": json_values, "arguments": json_values})
malformed_calls = st.fixed_dictionaries(
    {}, optional={"index": json_values, "id": json_values, "function": functions, "custom": functions}
)
malformed_deltas = st.fixed_dictionaries(
    {},
    optional={
        "content": json_values,
        "tool_calls": json_values | st.lists(malformed_calls, max_size=2),
        "function_call": functions,
        "reasoning": json_values,
    },
)
malformed_choices = st.fixed_dictionaries(
    {}, optional={"delta": malformed_deltas | json_values, "finish_reason": json_values, "index": json_values}
)
malformed = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(malformed_choices | json_values, max_size=2) | json_values,
        "usage": json_values | st.fixed_dictionaries({"prompt_tokens": json_values, "completion_tokens": json_values}),
        "error": json_values,
    },
)


@given(st.lists(malformed | json_values, max_size=3), st.integers(0, 40))
def test_a_random_stream_is_read_or_raises_only_the_documented_errors(documents: list[Any], cut: int) -> None:
    reader, received = chat.StreamReader(), StreamAccumulator()
    for document in documents:
        body = json.dumps(document).encode()
        for data in (body, body[:cut]):
            try:
                received.add(tuple(reader.read(make_event(data))))
            except (MalformedAnswer, ProviderSentError):
                continue
    assert received.text_bytes == len(received.text_since(0).encode())
    received.completion()
