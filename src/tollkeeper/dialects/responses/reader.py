"""A streamed answer, read."""

from typing import Any

import msgspec

from tollkeeper.chat import Delta, Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta
from tollkeeper.dialects.reading import BadAnswer, ProviderSaidError
from tollkeeper.dialects.responses.answer import Details, finish_reason, read_usage
from tollkeeper.dialects.sse import Event

SPOKEN: dict[str, type[TextDelta] | type[RefusalDelta] | type[ReasoningDelta]] = {
    "response.output_text": TextDelta,
    "response.refusal": RefusalDelta,
    "response.reasoning_summary_text": ReasoningDelta,
    "response.reasoning_text": ReasoningDelta,
}
"""What is told by `.delta` and `.done`."""
CUSTOM = "response.custom_tool_call_input"
ARGUMENTS = frozenset({"response.function_call_arguments", CUSTOM})
CALLS = frozenset({"function_call", "custom_tool_call"})
ENDS = {"response.completed": "completed", "response.incomplete": "incomplete"}
ERRORS = frozenset({"response.failed", "error"})


class _Item(msgspec.Struct):
    type: str = ""
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class _Event(msgspec.Struct):
    """What is read of an event of any type. Which of the texts it has depends on the type."""

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


class _Response(msgspec.Struct):
    incomplete_details: Details | None = None
    usage: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_item = msgspec.json.Decoder(_Item | None).decode
_decode_response = msgspec.json.Decoder(_Response | None).decode


class EventReader:
    """Takes events, gives deltas.

    `last` tells of the latest event whether it belongs to the end of the answer, `finished` whether the answer is
    whole.
    """

    def __init__(self) -> None:
        self.last = False
        self.finished = False
        self._calls: dict[int, int] = {}
        self._told: set[tuple[str, int, int, int]] = set()
        self._refused = False

    def read(self, event: Event) -> list[Delta]:
        """What it tells. Raises BadAnswer for garbage, and ProviderSaidError."""
        self.last = event.data == b"[DONE]"
        if self.last:
            return []
        try:
            return self._read(_decode_event(event.data), event.name)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BadAnswer from None

    def _read(self, said: _Event, name: bytes) -> list[Delta]:
        if said.type in ERRORS or name == b"error" or said.error is not None or said.object == "error":
            self.last = True
            raise ProviderSaidError
        if not said.type:
            raise BadAnswer
        stem, _, ending = said.type.rpartition(".")
        if ending == "delta":
            return self._piece(stem, said)
        if ending == "done" and stem != "response.output_item":
            return self._whole(stem, said)
        if said.type in {"response.output_item.added", "response.output_item.done"}:
            return self._item(said)
        if said.type in ENDS:
            return self._end(said)
        return []

    def _piece(self, stem: str, said: _Event) -> list[Delta]:
        if stem not in SPOKEN and stem not in ARGUMENTS:
            return []
        if not isinstance(said.delta, str):
            raise BadAnswer
        self._told.add(_place(stem, said))
        return self._delta(stem, said.output_index, said.delta)

    def _whole(self, stem: str, said: _Event) -> list[Delta]:
        """What is done was told in pieces before; servers that tell it only at once are understood too."""
        if (stem not in SPOKEN and stem not in ARGUMENTS) or _place(stem, said) in self._told:
            return []
        texts = (said.text, said.refusal, said.arguments, said.input)
        text = next((text for text in texts if text is not None), "")
        if not isinstance(text, str):
            raise BadAnswer
        self._told.add(_place(stem, said))
        return self._delta(stem, said.output_index, text) if text else []

    def _delta(self, stem: str, output_index: int, text: str) -> list[Delta]:
        if stem in ARGUMENTS:
            return [ToolCallDelta(self._call(output_index), None, None, text, stem == CUSTOM)]
        self._refused |= stem == "response.refusal"
        return [SPOKEN[stem](text)]

    def _item(self, said: _Event) -> list[Delta]:
        item = _decode_item(said.item) or _Item()
        if item.type not in CALLS or said.output_index in self._calls:
            return []
        custom = item.type == "custom_tool_call"
        arguments = (item.input if custom else item.arguments) or ""
        if arguments:
            self._told.add((CUSTOM if custom else "response.function_call_arguments", said.output_index, 0, 0))
        return [ToolCallDelta(self._call(said.output_index), item.call_id, item.name, arguments, custom)]

    def _call(self, output_index: int) -> int:
        return self._calls.setdefault(output_index, len(self._calls))

    def _end(self, said: _Event) -> list[Delta]:
        response = _decode_response(said.response) or _Response()
        self.last = self.finished = True
        reason = finish_reason(
            ENDS[said.type], response.incomplete_details, calls=bool(self._calls), refused=self._refused
        )
        usage = read_usage(response.usage)
        return [Finish(reason)] if usage is None else [Finish(reason), usage]


def _place(stem: str, said: _Event) -> tuple[str, int, int, int]:
    return stem, said.output_index, said.content_index, said.summary_index
