"""Reads the events of a streamed answer."""

from typing import Any

import msgspec

from tollkeeper.chat import Delta, Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, UsageReport
from tollkeeper.dialects.answer_checks import UNTYPED_FLOAT, MalformedAnswer, ProviderSentError
from tollkeeper.dialects.responses.answer_reader import IncompleteDetails, finish_reason, read_usage
from tollkeeper.dialects.sse import Event

TEXTS: dict[str, type[TextDelta] | type[RefusalDelta] | type[ReasoningDelta]] = {
    "response.output_text": TextDelta,
    "response.refusal": RefusalDelta,
    "response.reasoning_summary_text": ReasoningDelta,
    "response.reasoning_text": ReasoningDelta,
}
"""The texts that come in `.delta` events and, whole, in a `.done` event."""
FUNCTION_ARGUMENTS, CUSTOM_INPUT = "response.function_call_arguments", "response.custom_tool_call_input"
ARGUMENTS = frozenset({FUNCTION_ARGUMENTS, CUSTOM_INPUT})
TOOL_CALLS = frozenset({"function_call", "custom_tool_call"})
FINAL_STATUSES = {"response.completed": "completed", "response.incomplete": "incomplete"}
ERRORS = frozenset({"response.failed", "error"})


class _Item(msgspec.Struct):
    type: str = ""
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class _Event(msgspec.Struct):
    """An event of any type. The type decides which of the text fields it has."""

    type: str = ""
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    delta: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    input: Any = None
    item: msgspec.Raw = msgspec.Raw(b"null")
    response: msgspec.Raw = msgspec.Raw(b"null")
    object: Any = None
    error: Any = None
    usage: Any = None


class _Response(msgspec.Struct):
    incomplete_details: IncompleteDetails | None = None
    usage: Any = None


_decode_event = msgspec.json.Decoder(_Event, float_hook=UNTYPED_FLOAT).decode
_decode_item = msgspec.json.Decoder(_Item | None).decode
_decode_response = msgspec.json.Decoder(_Response | None, float_hook=UNTYPED_FLOAT).decode


class StreamReader:
    """Reads the events of one stream into deltas.

    `last`: the latest event belongs to the end of the answer. `finished`: the answer is whole.
    """

    def __init__(self) -> None:
        self.last = False
        self.finished = False
        self._call_numbers: dict[int, int] = {}
        self._received: set[tuple[str, int, int, int]] = set()
        """The texts that came in `.delta` events, or whole."""
        self._refused = False

    def read(self, event: Event) -> list[Delta]:
        """The deltas of one event. Raises MalformedAnswer if it is malformed, ProviderSentError if it is an error."""
        self.last = event.data == b"[DONE]"
        if self.last:
            return []
        try:
            return self._read(_decode_event(event.data), event.name)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise MalformedAnswer from None

    def _read(self, event: _Event, name: bytes) -> list[Delta]:
        if event.type in ERRORS or name == b"error" or event.error is not None or event.object == "error":
            self.last = True
            raise ProviderSentError(_usage_of_failure(event))
        if not event.type:
            raise MalformedAnswer
        stem, _, ending = event.type.rpartition(".")
        if ending == "delta":
            return self._read_delta(stem, event)
        if ending == "done" and stem != "response.output_item":
            return self._read_done(stem, event)
        if event.type in {"response.output_item.added", "response.output_item.done"}:
            return self._read_item(event)
        if event.type in FINAL_STATUSES:
            return self._read_end(event)
        return []

    def _read_delta(self, stem: str, event: _Event) -> list[Delta]:
        if stem not in TEXTS and stem not in ARGUMENTS:
            return []
        if not isinstance(event.delta, str):
            raise MalformedAnswer
        self._received.add(_text_key(stem, event))
        return self._delta(stem, event.output_index, event.delta)

    def _read_done(self, stem: str, event: _Event) -> list[Delta]:
        """Only a text without `.delta` events gives a delta: some servers send it whole."""
        if (stem not in TEXTS and stem not in ARGUMENTS) or _text_key(stem, event) in self._received:
            return []
        texts = (event.text, event.refusal, event.arguments, event.input)
        text = next((text for text in texts if text is not None), "")
        if not isinstance(text, str):
            raise MalformedAnswer
        self._received.add(_text_key(stem, event))
        return self._delta(stem, event.output_index, text) if text else []

    def _delta(self, stem: str, output_index: int, text: str) -> list[Delta]:
        if stem in ARGUMENTS:
            return [ToolCallDelta(self._call_number(output_index), None, None, text, stem == CUSTOM_INPUT)]
        self._refused |= stem == "response.refusal"
        return [TEXTS[stem](text)]

    def _read_item(self, event: _Event) -> list[Delta]:
        item = _decode_item(event.item) or _Item()
        if item.type not in TOOL_CALLS or event.output_index in self._call_numbers:
            return []
        custom = item.type == "custom_tool_call"
        arguments = (item.input if custom else item.arguments) or ""
        if arguments:
            self._received.add((CUSTOM_INPUT if custom else FUNCTION_ARGUMENTS, event.output_index, 0, 0))
        return [ToolCallDelta(self._call_number(event.output_index), item.call_id, item.name, arguments, custom)]

    def _call_number(self, output_index: int) -> int:
        """Tool calls are numbered from 0, in the order of their first events."""
        return self._call_numbers.setdefault(output_index, len(self._call_numbers))

    def _read_end(self, event: _Event) -> list[Delta]:
        response = _decode_response(event.response) or _Response()
        self.last = self.finished = True
        status, details = FINAL_STATUSES[event.type], response.incomplete_details
        reason = finish_reason(status, details, calls=bool(self._call_numbers), refused=self._refused)
        usage = read_usage(response.usage)
        return [Finish(reason)] if usage is None else [Finish(reason), usage]


def _usage_of_failure(event: _Event) -> UsageReport | None:
    """The usage that a failed response reports, or else the event itself."""
    try:
        response = _decode_response(event.response)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        response = None
    return read_usage(event.usage if response is None else response.usage)


def _text_key(stem: str, event: _Event) -> tuple[str, int, int, int]:
    return stem, event.output_index, event.content_index, event.summary_index
