"""Streams in the responses format from servers that differ from OpenAI's."""

from typing import Any

import orjson
import pytest

from tollkeeper.chat import Finish, TextDelta, ToolCallDelta
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError
from tollkeeper.dialects.responses import StreamReader
from tollkeeper.dialects.sse import Event


def make_event(name: str = "", **fields: Any) -> Event:
    return Event(b"", name.encode(), orjson.dumps(fields))


@pytest.mark.parametrize(
    "received",
    [
        make_event(type="response.failed", response={"error": {"code": "server_error", "message": "secret"}}),
        make_event(type="error", code="x", message="secret", param=None, sequence_number=3),
        make_event("error", error={"message": "secret"}),
        make_event(error={"message": "secret"}),
        make_event("error", type="response.output_text.delta", delta="secret"),
        make_event(object="error", message="secret", type="BadRequestError", code=400),
        make_event(type="response.in_progress", error={"message": "secret"}),
    ],
)
def test_an_error_event_raises_without_its_text(received: Event) -> None:
    reader = StreamReader()
    with pytest.raises(ProviderSentError) as raised:
        reader.read(received)
    assert "secret" not in str(raised.value)
    assert (reader.last, reader.finished) == (True, False)


@pytest.mark.parametrize(
    "received",
    [
        Event(b"", b"", b"{"),
        Event(b"", b"", b"[]"),
        Event(b"", b"", b"\xff"),
        Event(b"", b"", b'{"type":"response.created","response":' + b"[" * 100_000),
        Event(b"", b"", b"null"),
        make_event(message="secret", code=400),
        make_event(detail="secret"),
    ],
)
def test_an_event_that_cannot_be_decoded_is_malformed(received: Event) -> None:
    with pytest.raises(MalformedAnswer):
        StreamReader().read(received)


def test_unused_events_have_no_deltas() -> None:
    reader = StreamReader()
    for received in (
        make_event(type="response.queued", response={"id": "r"}, sequence_number=0),
        make_event(type="response.output_item.added", item={"type": "web_search_call", "action": {}}, output_index=0),
        make_event(type="response.web_search_call.completed", item_id="w", output_index=0),
        make_event(type="response.audio.delta", delta={"not": "text"}),
        make_event(type="keepalive", sequence_number=3),
    ):
        assert reader.read(received) == []
        assert not reader.last


def test_content_sent_only_in_done_events_is_read_once() -> None:
    reader = StreamReader()
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    deltas = [
        delta
        for received in (
            make_event(type="response.output_text.done", text="ab", output_index=0, content_index=0),
            make_event(type="response.output_text.done", text="ab", output_index=0, content_index=0),
            make_event(type="response.output_item.done", item=call, output_index=1),
            make_event(type="response.function_call_arguments.done", arguments="{}", output_index=1),
            make_event(type="response.custom_tool_call_input.delta", delta="select", output_index=2),
            make_event(type="response.custom_tool_call_input.done", input="select", output_index=2),
        )
        for delta in reader.read(received)
    ]
    assert deltas == [
        TextDelta("ab"),
        ToolCallDelta(0, "c", "f", "{}"),
        ToolCallDelta(1, None, None, "select", custom=True),
    ]


def test_an_incomplete_answer_without_a_usage_report_ends_the_stream() -> None:
    reader = StreamReader()
    incomplete = make_event(
        type="response.incomplete", response={"incomplete_details": {"reason": "steered"}, "usage": {"a": 1}}
    )
    assert reader.read(incomplete) == [Finish("steered")]
    assert reader.finished
