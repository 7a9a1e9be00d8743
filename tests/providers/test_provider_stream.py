"""A whole answer in JSON where a stream was requested, and errors that report a usage."""

from typing import Any

import orjson
import pytest

from tollkeeper import errors
from tollkeeper.chat import Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.dialects import chat, messages, ndjson, ollama, responses, sse
from tollkeeper.gateway.accumulator import StreamAccumulator
from tollkeeper.providers.base import SIGN_OF_LIFE, BilledFailure, StreamChunk
from tollkeeper.providers.http_common import reading_answer
from tollkeeper.providers.provider_stream import MAX_MERGED_BYTES, ProviderStream

ANSWERS: dict[Any, dict[str, Any]] = {
    chat: {
        "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2},
    },
    messages: {
        "type": "message",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 9, "output_tokens": 2},
    },
    responses: {
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
        "usage": {"input_tokens": 9, "output_tokens": 2},
    },
}


class FakeResponse:
    """The body of a response, in blocks."""

    sent = b"{}"

    def __init__(self, *blocks: bytes) -> None:
        self._blocks = list(blocks)
        self.closed = False

    async def read(self) -> bytes:
        return self._blocks.pop(0) if self._blocks else b""

    def close(self) -> None:
        self.closed = True


def stream_of(dialect: Any, *blocks: bytes, raw: bool = True) -> ProviderStream:
    response: Any = FakeResponse(*blocks)
    return ProviderStream(response, sse.Splitter(), dialect.StreamReader(), raw=raw, read_answer=dialect.read_answer)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dialect", ANSWERS, ids=lambda dialect: dialect.__name__.rpartition(".")[2])
async def test_a_whole_answer_is_a_stream_of_two_chunks(dialect: Any, raw: bool) -> None:
    body = orjson.dumps(ANSWERS[dialect], option=orjson.OPT_INDENT_2)
    for blocks in ([body], [b"\n\n", b" " + body[:9], body[9:]]):
        chunks = [chunk async for chunk in stream_of(dialect, *blocks, raw=raw) if chunk is not SIGN_OF_LIFE]
        assert chunks == [
            StreamChunk(b"", (TextDelta("Hello"),)),
            StreamChunk(b"", (Finish("stop"), Usage(9, 2)), last=True),
        ]


async def test_everything_in_a_whole_answer_is_in_the_stream() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    message = {"content": "Hi", "reasoning_content": "hm", "refusal": "No", "tool_calls": [call]}
    body = orjson.dumps({"choices": [{"message": message}]})
    content, end = [chunk async for chunk in stream_of(chat, body)]
    assert content.deltas == (
        ReasoningDelta("hm"),
        TextDelta("Hi"),
        RefusalDelta("No"),
        ToolCallDelta(0, "c", "f", "{}"),
    )
    assert (end.deltas, end.last) == ((Finish("tool_calls"),), True)


@pytest.mark.parametrize("block", [b": keep-alive\n\n", b": keep-alive\n", b"\n\n", b"data: {", b"event: x\n\n"])
async def test_bytes_that_complete_no_event_are_a_sign_of_life(block: bytes) -> None:
    text = b'"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
    rest = text if block == b"data: {" else b"data: {" + text
    alive, chunk = [chunk async for chunk in stream_of(chat, block, rest, b": bye\n")][:2]
    assert alive is SIGN_OF_LIFE
    assert chunk.deltas == (TextDelta("Hi"), Finish("stop"))


TEXT_EVENTS: dict[Any, bytes] = {
    chat: b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n',
    messages: b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}\n\n',
    responses: b'data: {"type":"response.output_text.delta","delta":"Hi"}\n\n',
}
STATUS = b'data: {"code":0,"message":"ok"}\n\n'


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dialect", TEXT_EVENTS, ids=lambda dialect: dialect.__name__.rpartition(".")[2])
@pytest.mark.parametrize("event", [b"data: \n\n", b"data: ping\n\n", b"data: null\n\n", STATUS])
async def test_an_event_without_an_answer_in_a_stream_is_a_sign_of_life(event: bytes, dialect: Any, raw: bool) -> None:
    text = TEXT_EVENTS[dialect]
    stream = stream_of(dialect, text, event, text, raw=raw)
    chunks = [await anext(stream) for _ in range(3)]
    assert chunks[1] is SIGN_OF_LIFE
    assert chunks[0] == chunks[2] == StreamChunk(text if raw else b"", (TextDelta("Hi"),))


@pytest.mark.parametrize("dialect", TEXT_EVENTS, ids=lambda dialect: dialect.__name__.rpartition(".")[2])
@pytest.mark.parametrize(
    "event",
    [
        b'data: {"code":500,"message":"x"}\n\n',
        b'data: {"code":0,"detail":"x"}\n\n',
        b'data: {"choices":[{"del\n\n',
        b'data: ["x"]\n\n',
    ],
)
async def test_an_event_that_may_be_an_error_or_an_answer_is_a_bad_answer(event: bytes, dialect: Any) -> None:
    stream = stream_of(dialect, TEXT_EVENTS[dialect], event)
    await anext(stream)
    with pytest.raises(errors.ProviderBadResponse):
        await anext(stream)


CALL_EVENTS: dict[Any, list[Any]] = {
    chat: [{"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}}]}],
    messages: [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "c", "name": "f"}},
        {"type": "content_block_stop", "index": 0},
    ],
    responses: [{"type": "response.output_item.added", "item": {"type": "function_call", "call_id": "c", "name": "f"}}],
}


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dialect", CALL_EVENTS, ids=lambda dialect: dialect.__name__.rpartition(".")[2])
async def test_an_end_without_a_finish_reason_is_the_last_chunk(dialect: Any, raw: bool) -> None:
    calls = b"".join(sse.event(orjson.dumps(one)) for one in CALL_EVENTS[dialect])
    ends = [sse.DONE, sse.event(b'{"type":"message_stop"}')] if dialect is messages else [sse.DONE]
    for end in ends:
        for begin, reason in ((TEXT_EVENTS[dialect], "stop"), (calls, "tool_calls")):
            received, stream = StreamAccumulator(), stream_of(dialect, begin, end, raw=raw)
            while not (chunk := await anext(stream)).last:
                received.add(chunk.deltas)
            assert received.end()
            assert received.finish_reason == reason


async def test_a_text_as_the_first_event_is_a_bad_answer() -> None:
    with pytest.raises(errors.ProviderBadResponse):
        await anext(stream_of(chat, b"data: Unauthorized\n\n"))


async def test_a_stream_with_an_unknown_text_ends_only_with_a_finish_reason() -> None:
    """The text may have been an error."""
    stream = stream_of(chat, TEXT_EVENTS[chat], b"data: It broke.\n\n", sse.DONE)
    assert [await anext(stream) for _ in range(2)][1] is SIGN_OF_LIFE
    with pytest.raises(errors.ProviderInterrupted):
        await anext(stream)


async def test_blank_lines_between_ndjson_lines_are_a_sign_of_life() -> None:
    response: Any = FakeResponse(b"\n", b'{"message":{"content":"Hi"},"done":true}\n')
    stream = ProviderStream(response, ndjson.Splitter(), ollama.StreamReader(), raw=False)
    assert await anext(stream) is SIGN_OF_LIFE
    assert (await anext(stream)).deltas == (TextDelta("Hi"),)


@pytest.mark.parametrize("dialect", ANSWERS, ids=lambda dialect: dialect.__name__.rpartition(".")[2])
async def test_an_error_in_json_is_a_failure(dialect: Any) -> None:
    with pytest.raises(errors.ProviderFailed) as raised:
        await anext(stream_of(dialect, b'{"type":"error","error":{"message":"x"}}'))
    assert not raised.value.billed


async def test_other_json_is_a_bad_answer() -> None:
    with pytest.raises(errors.ProviderBadResponse):
        await anext(stream_of(chat, b'{"choices":'))


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        ({"input_tokens": 4000, "output_tokens": 1000}, True),
        ({"input_tokens": 0, "output_tokens": 0}, False),
        (None, False),
    ],
)
async def test_a_failed_response_is_billed_if_it_reports_a_usage(usage: Any, billed: bool) -> None:
    failed = {"type": "response.failed", "response": {"status": "failed", "usage": usage, "error": {"message": "x"}}}
    with pytest.raises(errors.ProviderFailed) as raised:
        await anext(stream_of(responses, sse.event(orjson.dumps(failed))))
    assert raised.value.billed is billed
    if billed:
        assert isinstance(raised.value, BilledFailure)
        assert raised.value.usage == Usage(4000, 1000)


OVERFLOWS = {
    "chat, error": (chat, {"error": {"message": "x", "code": "context_length_exceeded"}}),
    "messages": (messages, {"type": "error", "error": {"message": "prompt is too long: 9 tokens > 8 maximum"}}),
    "responses": (
        responses,
        {
            "type": "response.failed",
            "response": {"status": "failed", "usage": None, "error": {"code": "context_length_exceeded"}},
        },
    ),
}


@pytest.mark.parametrize("in_event", [False, True], ids=["JSON", "event"])
@pytest.mark.parametrize(("dialect", "sent"), OVERFLOWS.values(), ids=OVERFLOWS.keys())
async def test_a_context_overflow_inside_a_200_is_recognised(dialect: Any, sent: Any, in_event: bool) -> None:
    body = orjson.dumps(sent if in_event or dialect is not responses else sent["response"])
    with pytest.raises(errors.ContextOverflow) as raised:
        await anext(stream_of(dialect, sse.event(body) if in_event else body))
    assert raised.value.upstream is not None
    assert (raised.value.billed, raised.value.upstream.status) == (False, 200)
    if not in_event:
        with pytest.raises(errors.ContextOverflow), reading_answer(body, b"{}"):
            dialect.read_answer(body)


def text_event(text: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode()


END = b'data: {"choices":[{"delta":{"content":"!"},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n'


@pytest.mark.parametrize("raw", [True, False])
async def test_events_that_arrive_together_are_one_chunk_and_the_end_is_another(raw: bool) -> None:
    first, rest = text_event("a") + b": ping\n\n" + text_event("b"), text_event("c") + END + USAGE + sse.DONE
    chunks = [chunk async for chunk in stream_of(chat, first, rest, raw=raw)]
    ends = [(Usage(9, 2),), ()]
    assert [chunk.deltas for chunk in chunks] == [
        (TextDelta("a"), TextDelta("b")),
        (TextDelta("c"), TextDelta("!"), Finish("stop")),
        *ends,
    ]
    assert [chunk.last for chunk in chunks] == [False, False, True, True]
    assert [chunk.raw for chunk in chunks] == (
        [text_event("a") + text_event("b"), text_event("c") + END, USAGE, sse.DONE] if raw else [b""] * 4
    )


async def test_how_a_stream_is_cut_into_blocks_does_not_change_its_content() -> None:
    sent = text_event("a") + text_event("bc") + END + USAGE + sse.DONE
    whole = [chunk async for chunk in stream_of(chat, sent)]
    for size in (1, 2, 7, 60):
        blocks = [sent[place : place + size] for place in range(0, len(sent), size)]
        chunks = [chunk async for chunk in stream_of(chat, *blocks) if chunk is not SIGN_OF_LIFE]
        for field in ("raw", "deltas"):
            joined, expected = getattr(chunks[0], field), getattr(whole[0], field)
            for chunk in chunks[1:]:
                joined += getattr(chunk, field)
            for chunk in whole[1:]:
                expected += getattr(chunk, field)
            assert joined == expected


async def test_a_chunk_has_a_limited_number_of_bytes() -> None:
    events = [text_event(str(number)) for number in range(1_000)]
    chunks = [chunk async for chunk in stream_of(chat, b"".join(events) + END)]
    assert max(len(chunk.raw) for chunk in chunks) < 1.3 * MAX_MERGED_BYTES
    assert b"".join(chunk.raw for chunk in chunks) == b"".join(events) + END


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (b"data: {\n\n", errors.ProviderBadResponse),
        (b'data: {"error":{"message":"overloaded"}}\n\n', errors.ProviderFailed),
    ],
)
async def test_what_arrived_before_an_error_is_delivered_before_it_is_raised(
    bad: bytes, kind: type[errors.ProviderError]
) -> None:
    response: Any = FakeResponse(text_event("a") + bad + text_event("never read"))
    chunks = ProviderStream(response, sse.Splitter(), chat.StreamReader(), raw=False)
    assert (await anext(chunks)).deltas == (TextDelta("a"),)
    assert response.closed
    for _ in range(2):
        with pytest.raises(kind):
            await anext(chunks)
