"""Reads the chunks of a streamed answer."""

from typing import Any

import msgspec

from tollkeeper.chat import Delta, Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta
from tollkeeper.dialects.answer_checks import UNTYPED_FLOAT, MalformedAnswer, ProviderSentError, raise_error_event
from tollkeeper.dialects.chat.answer_reader import read_usage
from tollkeeper.dialects.chat.content_lists import read_content
from tollkeeper.dialects.sse import Event


class _FunctionDelta(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CustomDelta(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class _ToolCallDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _FunctionDelta | None = None
    custom: _CustomDelta | None = None


class _Delta(msgspec.Struct):
    content: str | list[Any] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCallDelta] | None = None
    function_call: _FunctionDelta | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None
    index: int = 0
    error: Any = None


class _Chunk(msgspec.Struct):
    """The fields of a chunk that metering and the deltas need."""

    choices: list[_Choice] | None = None
    usage: Any = None
    object: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk, float_hook=UNTYPED_FLOAT).decode


class StreamReader:
    """Reads the events of one stream into deltas.

    `last`: the latest event belongs to the end of the answer. `finished`: the answer is whole.
    """

    def __init__(self) -> None:
        self.last = False
        self.finished = False
        self._begun_calls: set[tuple[int, int]] = set()
        """The choice and the index of each tool call that has begun."""

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
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedAnswer from error
        if chunk.error is not None or chunk.object == "error":
            raise ProviderSentError(read_usage(chunk.usage))
        if chunk.choices is None and chunk.usage is None:
            raise MalformedAnswer
        deltas: list[Delta] = []
        for choice in chunk.choices or ():
            if choice.error is not None or choice.finish_reason == "error":
                raise ProviderSentError(read_usage(chunk.usage))
            if choice.delta is not None:
                self._read_delta(choice.delta, choice.index, deltas)
            if choice.finish_reason is not None:
                self.finished = True
                deltas.append(Finish(choice.finish_reason))
        if chunk.usage is not None:
            usage = read_usage(chunk.usage)
            if usage is not None:
                deltas.append(usage)
        self.last = self.finished and not chunk.choices and chunk.usage is not None
        return deltas

    def _read_delta(self, delta: _Delta, choice: int, deltas: list[Delta]) -> None:
        if delta.content:
            if isinstance(delta.content, str):
                deltas.append(TextDelta(delta.content))
            else:
                _read_content_list(delta.content, deltas)
        if delta.refusal:
            deltas.append(RefusalDelta(delta.refusal))
        if reasoning := delta.reasoning_content or delta.reasoning:
            deltas.append(ReasoningDelta(reasoning))
        if delta.tool_calls:
            deltas.extend(self._tool_call(call, choice) for call in delta.tool_calls)
        if delta.function_call is not None:
            deltas.append(self._tool_call(_ToolCallDelta(0, "", delta.function_call), choice))

    def _tool_call(self, call: _ToolCallDelta, choice: int) -> ToolCallDelta:
        """Some servers repeat the id and the name in every chunk; only the first delta of a call has them."""
        if (custom := call.custom) is not None:
            name, arguments = custom.name, custom.input
        else:
            function = call.function or _FunctionDelta()
            name, arguments = function.name, function.arguments
        first = (choice, call.index) not in self._begun_calls
        self._begun_calls.add((choice, call.index))
        call_id, name = (call.id or "", name or "") if first else (None, None)
        return ToolCallDelta(call.index, call_id, name, arguments or "", custom is not None)


def _read_content_list(parts: list[Any], deltas: list[Delta]) -> None:
    text, reasoning = read_content(parts)
    if reasoning:
        deltas.append(ReasoningDelta(reasoning))
    if text:
        deltas.append(TextDelta(text))
