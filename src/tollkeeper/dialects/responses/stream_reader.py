"""Reads the events of a streamed answer."""

from typing import Any, TypeVar

import msgspec

from tollkeeper.chat import Delta, Finish, ReasoningDelta, ReasoningEnd, RefusalDelta, TextDelta, UsageReport
from tollkeeper.dialects.answer_checks import (
    UNTYPED_FLOAT,
    MalformedAnswer,
    ProviderSentError,
    check_other_event,
    has_error,
)
from tollkeeper.dialects.answer_tool_calls import arguments_text
from tollkeeper.dialects.lenient_decoding import DECODE_ERRORS, decode_leniently
from tollkeeper.dialects.responses.answer_reader import (
    IncompleteDetails,
    ItemTexts,
    OutputItem,
    finish_reason,
    read_usage,
    texts_of,
)
from tollkeeper.dialects.responses.streamed_calls import StreamedCalls
from tollkeeper.dialects.sse import Event

T = TypeVar("T", bound=msgspec.Struct)

TextType = type[TextDelta] | type[RefusalDelta] | type[ReasoningDelta]

TEXTS: dict[str, TextType] = {
    "response.output_text": TextDelta,
    "response.refusal": RefusalDelta,
    "response.reasoning_summary_text": ReasoningDelta,
    "response.reasoning_text": ReasoningDelta,
}
"""The texts that come in `.delta` events and, whole, in a `.done` event."""
FUNCTION_ARGUMENTS, CUSTOM_INPUT = "response.function_call_arguments", "response.custom_tool_call_input"
ARGUMENTS = frozenset({FUNCTION_ARGUMENTS, CUSTOM_INPUT})
TEXT_DELTAS: tuple[TextType, ...] = (TextDelta, RefusalDelta, ReasoningDelta)
"""The deltas of the fields of ItemTexts, in their order."""
FINAL_STATUSES = {"response.completed": "completed", "response.incomplete": "incomplete"}
ERRORS = frozenset({"response.failed", "error"})


class _Event(msgspec.Struct):
    """An event of any type. The type decides which of the text fields it has."""

    type: str = ""
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    item_id: str | None = None
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
    output: list[OutputItem] | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: Any = None


_decode_event = msgspec.json.Decoder(_Event, float_hook=UNTYPED_FLOAT).decode
_decode_item = msgspec.json.Decoder(OutputItem | None).decode
_decode_response = msgspec.json.Decoder(_Response | None, float_hook=UNTYPED_FLOAT).decode

TextKey = tuple[str, int | None, int | None, int | None]
"""Where a text belongs: the stem of its events, and their indexes."""


class StreamReader:
    """Reads the events of one stream into deltas.

    `last`: the latest event belongs to the end of the answer. `finished`: the answer is whole. `alone`: the latest
    event must not be delivered together with others. Servers differ in which events have a text or arguments: what one
    event has beyond what the events before it had is a delta. Encrypted reasoning is sealed as that of the model
    `signer`; without one it is not read.
    """

    def __init__(self, signer: str = "") -> None:
        self._signer = signer
        self._reasoning_from = 0
        """The index of the first text of the reasoning item that has not ended."""
        self.last = False
        self.finished = False
        self.alone = False
        self._calls = StreamedCalls()
        self._received: set[TextKey] = set()
        """The texts that came in `.delta` events, or whole."""
        self._texts: dict[TextType, list[str]] = {TextDelta: [], RefusalDelta: [], ReasoningDelta: []}

    def read(self, event: Event) -> list[Delta]:
        """The deltas of one event. Raises MalformedAnswer if it is malformed, ProviderSentError if it is an error."""
        self.last = event.data == b"[DONE]"
        if self.last:
            return []
        try:
            decoded = _decode_event(event.data)
        except DECODE_ERRORS:
            decoded = decode_leniently(event.data, _Event)
        return self._read(decoded, event)

    def _read(self, decoded: _Event, event: Event) -> list[Delta]:
        event_type = decoded.type or event.name.decode(errors="replace")
        is_error = decoded.error is not None and has_error(decoded.error, has_answer=bool(event_type))
        if is_error or decoded.object == "error" or event_type in ERRORS or event.name == b"error":
            self.last = True
            raise ProviderSentError(_usage_of_failure(decoded))
        if not event_type:
            check_other_event(event.data)
        stem, _, ending = event_type.rpartition(".")
        self.alone = ending != "delta"  # StreamTracker needs the order of items and texts
        if ending == "delta":
            return self._read_delta(stem, decoded)
        if event_type == "response.output_item.added":
            return self._read_item_start(decoded)
        if event_type == "response.output_item.done":
            return self._read_item_end(decoded)
        if ending == "done":
            return self._read_done(stem, decoded)
        if event_type in FINAL_STATUSES:
            return self._read_end(decoded, FINAL_STATUSES[event_type])
        return []

    def _read_delta(self, stem: str, event: _Event) -> list[Delta]:
        if stem in ARGUMENTS:
            text = arguments_text(event.delta)
            return [self._calls.delta(event.item_id, event.output_index, text, custom=stem == CUSTOM_INPUT)]
        if stem not in TEXTS or not isinstance(event.delta, str):
            return []
        self._received.add(_text_key(stem, event))
        return [self._text(TEXTS[stem], event.delta)]

    def _read_done(self, stem: str, event: _Event) -> list[Delta]:
        """Only a text without `.delta` events gives a delta: some servers send it whole."""
        if stem in ARGUMENTS:
            text = arguments_text(event.arguments if event.input is None else event.input)
            return self._calls.rest(event.item_id, event.output_index, text, custom=stem == CUSTOM_INPUT)
        if stem not in TEXTS or _text_key(stem, event) in self._received:
            return []
        text = event.text if event.refusal is None else event.refusal
        self._received.add(_text_key(stem, event))
        return [self._text(TEXTS[stem], text)] if isinstance(text, str) and text else []

    def _text(self, kind: TextType, text: str) -> Delta:
        self._texts[kind].append(text)
        return kind(text)

    def _read_item_start(self, event: _Event) -> list[Delta]:
        item = _read_item(event.item)
        if item.is_call:
            return self._calls.start(item, event.output_index)
        self._received = {key for key in self._received if key[1] != event.output_index}
        return []

    def _read_item_end(self, event: _Event) -> list[Delta]:
        item = _read_item(event.item)
        if item.is_call:
            return self._calls.end(item, event.output_index)
        received = {TEXTS[stem] for stem, index, *_ in self._received if index == event.output_index}
        kinds = zip(TEXT_DELTAS, item.texts, strict=True)
        deltas = [self._text(kind, text) for kind, text in kinds if text and kind not in received]
        return deltas if item.type != "reasoning" else [*deltas, *self._signature(item)]

    def _signature(self, item: OutputItem) -> list[Delta]:
        texts = self._texts[ReasoningDelta]
        text, self._reasoning_from = "".join(texts[self._reasoning_from :]), len(texts)
        sealed = item.seal(self._signer, text)
        return [ReasoningEnd(sealed)] if sealed else []

    def _read_end(self, event: _Event, status: str) -> list[Delta]:
        self.last = self.finished = True
        response = _read_response(event.response)
        items = response.output or []
        deltas = self._rest(texts_of(items)) + self._calls.finish(items)
        called, refused = self._calls.count > 0, bool(self._texts[RefusalDelta])
        deltas.append(Finish(finish_reason(status, response.incomplete_details, calls=called, refused=refused)))
        usage = read_usage(response.usage)
        return deltas if usage is None else [*deltas, usage]

    def _rest(self, whole: ItemTexts) -> list[Delta]:
        """What the texts of the whole response add to those that were received."""
        rests: list[Delta] = []
        for kind, text in zip(TEXT_DELTAS, whole, strict=True):
            received = "".join(self._texts[kind])
            if len(text) > len(received) and text.startswith(received):
                rests.append(self._text(kind, text[len(received) :]))
        return rests


def _read_item(raw: msgspec.Raw) -> OutputItem:
    """The item; one without a type if it is no object."""
    try:
        return _decode_item(raw) or OutputItem()
    except DECODE_ERRORS:
        return _read_leniently(raw, OutputItem)


def _read_response(raw: msgspec.Raw) -> _Response:
    """The response; an empty one if it is no object."""
    try:
        return _decode_response(raw) or _Response()
    except DECODE_ERRORS:
        return _read_leniently(raw, _Response)


def _read_leniently(raw: msgspec.Raw, struct: type[T]) -> T:
    try:
        return decode_leniently(bytes(raw), struct)
    except MalformedAnswer:
        return struct()


def _usage_of_failure(event: _Event) -> UsageReport | None:
    """The usage that a failed response reports, or else the event itself."""
    return read_usage(_read_response(event.response).usage) or read_usage(event.usage)


def _text_key(stem: str, event: _Event) -> TextKey:
    return stem, event.output_index, event.content_index, event.summary_index
