"""A streamed answer on the Responses wire, from servers that do not all do as OpenAI does."""

from typing import Any

import orjson
import pytest

from tollkeeper.chat import Finish, TextDelta, ToolCallDelta
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError
from tollkeeper.dialects.responses import StreamReader
from tollkeeper.dialects.sse import Event


def event(name: str = "", **fields: Any) -> Event:
    return Event(b"", name.encode(), orjson.dumps(fields))


@pytest.mark.parametrize(
    "said",
    [
        event(type="response.failed", response={"error": {"code": "server_error", "message": "secret"}}),
        event(type="error", code="x", message="secret", param=None, sequence_number=3),
        event("error", error={"message": "secret"}),
        event(error={"message": "secret"}),
        event("error", type="response.output_text.delta", delta="secret"),
        event(object="error", message="secret", type="BadRequestError", code=400),
        event(type="response.in_progress", error={"message": "secret"}),
    ],
)
def test_the_providers_own_error_is_raised_without_its_words(said: Event) -> None:
    reader = StreamReader()
    with pytest.raises(ProviderSentError) as raised:
        reader.read(said)
    assert "secret" not in str(raised.value)
    assert (reader.last, reader.finished) == (True, False)


@pytest.mark.parametrize(
    "said",
    [
        Event(b"", b"", b"{"),
        Event(b"", b"", b"[]"),
        Event(b"", b"", b"\xff"),
        Event(b"", b"", b'{"type":"response.created","response":' + b"[" * 100_000),
        event(),
        event(message="secret", code=400),
        event(type=7),
        event(type="response.output_text.delta", delta=7),
        event(type="response.output_text.done", text=7),
        event(type="response.output_text.delta", delta="a", output_index="1"),
        event(type="response.output_item.added", item=7),
        event(type="response.completed", response=[]),
    ],
)
def test_garbage_is_a_bad_answer(said: Event) -> None:
    with pytest.raises(MalformedAnswer):
        StreamReader().read(said)


def test_events_of_no_interest_tell_nothing() -> None:
    reader = StreamReader()
    for said in (
        event(type="response.queued", response={"id": "r"}, sequence_number=0),
        event(type="response.output_item.added", item={"type": "web_search_call", "action": {}}, output_index=0),
        event(type="response.web_search_call.completed", item_id="w", output_index=0),
        event(type="response.audio.delta", delta={"not": "text"}),
        event(type="keepalive", sequence_number=3),
    ):
        assert reader.read(said) == []
        assert not reader.last


def test_what_a_server_tells_only_at_once_is_not_lost_and_nothing_is_told_twice() -> None:
    reader = StreamReader()
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    told = [
        delta
        for said in (
            event(type="response.output_text.done", text="ab", output_index=0, content_index=0),
            event(type="response.output_text.done", text="ab", output_index=0, content_index=0),
            event(type="response.output_item.done", item=call, output_index=1),
            event(type="response.function_call_arguments.done", arguments="{}", output_index=1),
            event(type="response.custom_tool_call_input.delta", delta="select", output_index=2),
            event(type="response.custom_tool_call_input.done", input="select", output_index=2),
        )
        for delta in reader.read(said)
    ]
    assert told == [
        TextDelta("ab"),
        ToolCallDelta(0, "c", "f", "{}"),
        ToolCallDelta(1, None, None, "select", custom=True),
    ]


def test_an_incomplete_answer_without_a_usage_still_ends_it() -> None:
    reader = StreamReader()
    said = event(type="response.incomplete", response={"incomplete_details": {"reason": "steered"}, "usage": {"a": 1}})
    assert reader.read(said) == [Finish("steered")]
    assert reader.finished
