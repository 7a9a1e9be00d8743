"""A whole answer in JSON where a stream was requested, and errors that report a usage."""

from typing import Any

import orjson
import pytest

from tollkeeper import errors
from tollkeeper.chat import Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.dialects import chat, messages, responses, sse
from tollkeeper.providers.base import BilledFailure, StreamChunk
from tollkeeper.providers.http_common import ProviderStream

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
        chunks = [chunk async for chunk in stream_of(dialect, *blocks, raw=raw)]
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
    assert (end.deltas, end.last) == ((Finish("stop"),), True)


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
