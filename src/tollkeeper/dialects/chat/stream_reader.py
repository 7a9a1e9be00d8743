"""Reads the chunks of a streamed answer."""

from typing import Any

import msgspec

from tollkeeper.chat import Delta, Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta
from tollkeeper.dialects.answer_checks import (
    UNTYPED_FLOAT,
    ProviderSentError,
    check_other_event,
    has_error,
    raise_error_event,
)
from tollkeeper.dialects.answer_tool_calls import arguments_text
from tollkeeper.dialects.chat.answer_reader import finish_reason, read_usage, sealed_extra
from tollkeeper.dialects.chat.content_lists import read_content
from tollkeeper.dialects.chat.streamed_calls import CallPiece, StreamedCalls
from tollkeeper.dialects.lenient_decoding import DECODE_ERRORS, decode_leniently
from tollkeeper.dialects.sse import Event

NOT_FINISHED = frozenset({None, "", "null"})
"""The values of `finish_reason` in a chunk that does not end the answer."""
LEGACY_INDEX = -1
"""The index of the one call in the deprecated field `function_call`."""


class _FunctionDelta(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _CustomDelta(msgspec.Struct):
    name: str | None = None
    input: Any = None


class _ToolCallDelta(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _FunctionDelta | None = None
    custom: _CustomDelta | None = None
    extra_content: Any = None


class _Delta(msgspec.Struct):
    content: Any = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_ToolCallDelta] | None = None
    function_call: _FunctionDelta | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None
    index: int | None = None
    error: Any = None
    usage: Any = None


class _Chunk(msgspec.Struct):
    """The fields of a chunk that metering and the deltas need."""

    choices: list[_Choice] | None = None
    usage: Any = None
    object: Any = None
    error: Any = None
    x_groq: Any = None


_decode = msgspec.json.Decoder(_Chunk, float_hook=UNTYPED_FLOAT).decode


class StreamReader:
    """Reads the events of one stream into deltas.

    `last`: the latest event belongs to the end of the answer. `finished`: the answer is whole. `alone`: the latest
    event must not be delivered together with others. What the model `signer` demands back with a tool call is sealed in
    the id of the call.
    """

    def __init__(self, signer: str = "") -> None:
        self._signer = signer
        self.last = False
        self.finished = False
        self.alone = False
        self._calls = StreamedCalls()

    def read(self, event: Event) -> list[Delta]:
        """The deltas of one event. Raises MalformedAnswer if it is malformed, ProviderSentError if it is an error.

        Servers report errors in several ways: by the event's name, its `object`, an `error` field or a finish reason.
        """
        if event.name == b"error":
            raise_error_event(event.data, read_usage)
        if event.data == b"[DONE]":
            self.last = True
            return []
        try:
            chunk = _decode(event.data)
        except DECODE_ERRORS:
            chunk = decode_leniently(event.data, _Chunk)
        reported = chunk.usage if chunk.x_groq is None else _reported_usage(chunk)
        if (chunk.error is not None and _has_error(chunk)) or chunk.object == "error":
            raise ProviderSentError(read_usage(reported))
        if chunk.choices is None and reported is None:
            check_other_event(event.data)
        deltas: list[Delta] = []
        for choice in chunk.choices or ():
            if reported is None:
                reported = choice.usage  # Moonshot
            if choice.error or choice.finish_reason == "error":
                raise ProviderSentError(read_usage(reported))
            self._read_choice(choice, deltas)
        if reported is not None and (usage := read_usage(reported)) is not None:
            deltas.append(usage)
        self.alone = not chunk.choices  # it may be left out
        self.last = self.finished and not chunk.choices and reported is not None
        return deltas

    def _read_choice(self, choice: _Choice, deltas: list[Delta]) -> None:
        if choice.delta is not None:
            self._read_delta(choice.delta, choice.index or 0, deltas)
        if choice.finish_reason not in NOT_FINISHED:
            self.finished = True
            deltas.append(Finish(finish_reason(choice.finish_reason, called=self._calls.count > 0)))

    def _read_delta(self, delta: _Delta, choice: int, deltas: list[Delta]) -> None:
        if delta.content:
            if isinstance(delta.content, str):
                deltas.append(TextDelta(delta.content))
            else:
                _add_content(delta.content, deltas)
        if delta.refusal:
            deltas.append(RefusalDelta(delta.refusal))
        if reasoning := delta.reasoning_content or delta.reasoning:
            if isinstance(reasoning, str):
                deltas.append(ReasoningDelta(reasoning))
            elif text := "".join(read_content(reasoning)):
                deltas.append(ReasoningDelta(text))
        if delta.tool_calls:
            deltas.extend([self._read_call(call, choice) for call in delta.tool_calls])
        if (legacy := delta.function_call) is not None:
            piece = CallPiece(choice, LEGACY_INDEX, None, legacy.name, arguments_text(legacy.arguments))
            deltas.append(self._calls.read(piece))

    def _read_call(self, call: _ToolCallDelta, choice: int) -> ToolCallDelta:
        delta = self._calls.read(_piece(call, choice))
        if delta.id is None or not (sealed := sealed_extra(call.extra_content, self._signer)):
            return delta
        return ToolCallDelta(delta.index, delta.id + sealed, delta.name, delta.arguments, delta.custom)


def _reported_usage(chunk: _Chunk) -> Any:
    """The usage of a chunk of Groq: older ones report it only in `x_groq`."""
    if chunk.usage is None and isinstance(chunk.x_groq, dict):
        return chunk.x_groq.get("usage")
    return chunk.usage


def _has_error(chunk: _Chunk) -> bool:
    return has_error(chunk.error, has_answer=chunk.choices is not None or chunk.usage is not None)


def _piece(call: _ToolCallDelta, choice: int) -> CallPiece:
    if (custom := call.custom) is not None:
        return CallPiece(choice, call.index, call.id, custom.name, arguments_text(custom.input), custom=True)
    function = call.function or _FunctionDelta()
    return CallPiece(choice, call.index, call.id, function.name, arguments_text(function.arguments))


def _add_content(content: Any, deltas: list[Delta]) -> None:
    text, reasoning = read_content(content)
    if reasoning:
        deltas.append(ReasoningDelta(reasoning))
    if text:
        deltas.append(TextDelta(text))
