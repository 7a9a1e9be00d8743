"""Streamed answers: chunks of a provider's into deltas, deltas of ours into chunks."""

from typing import Any

import msgspec
import orjson

from tollkeeper.chat import Delta, Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.dialects.chat.answers import FINISH_REASONS, read_usage, write_usage
from tollkeeper.dialects.reading import BadAnswer, ProviderSaidError
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.sse import DONE, Event, event


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None
    index: int = 0
    error: Any = None


class _Chunk(msgspec.Struct):
    """What we need of a chunk; everything else is skipped unread."""

    choices: list[_Choice] | None = None
    usage: Any = None
    object: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class EventReader:
    """Reads the events of one stream. `last` says of the event just read that it ends the answer."""

    def __init__(self) -> None:
        self.last = False
        self.finished = False
        self._begun: set[tuple[int, int]] = set()

    def read(self, event: Event) -> list[Delta]:
        """What the event brings. Raises BadAnswer, ProviderSaidError: servers have many ways to say one."""
        if event.name == b"error":
            raise ProviderSaidError
        if event.data == b"[DONE]":
            self.last = True
            return []
        try:
            chunk = _decode(event.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadAnswer from error
        if chunk.error is not None or chunk.object == "error":
            raise ProviderSaidError
        if chunk.choices is None and chunk.usage is None:
            raise BadAnswer
        deltas: list[Delta] = []
        for choice in chunk.choices or ():
            if choice.error is not None or choice.finish_reason == "error":
                raise ProviderSaidError
            if choice.delta is not None:
                self._read_delta(choice.delta, choice.index, deltas)
            if choice.finish_reason is not None:
                self.finished = True
                deltas.append(Finish(choice.finish_reason))
        if chunk.usage is not None:
            usage = read_usage(chunk.usage)
            if usage is not None:
                deltas.append(usage)
        self.last = not chunk.choices and chunk.usage is not None
        return deltas

    def _read_delta(self, delta: _Delta, choice: int, deltas: list[Delta]) -> None:
        if delta.content:
            deltas.append(TextDelta(delta.content))
        if delta.refusal:
            deltas.append(RefusalDelta(delta.refusal))
        if thinking := delta.reasoning_content or delta.reasoning:
            deltas.append(ReasoningDelta(thinking))
        if delta.tool_calls:
            deltas.extend(self._call(call, choice) for call in delta.tool_calls)
        if delta.function_call is not None:
            deltas.append(self._call(_Call(0, "", delta.function_call), choice))

    def _call(self, call: _Call, choice: int) -> ToolCallDelta:
        """Some servers repeat id and name with every piece; they are told once."""
        if (custom := call.custom) is not None:
            given, piece = custom.name, custom.input
        else:
            function = call.function or _Function()
            given, piece = function.name, function.arguments
        first = (choice, call.index) not in self._begun
        self._begun.add((choice, call.index))
        call_id, name = (call.id or "", given or "") if first else (None, None)
        return ToolCallDelta(call.index, call_id, name, piece or "", custom is not None)


class StreamWriter:
    """Writes one answer as chunks; `begun`: the rest of one. `with_usage` adds a last chunk that tells the usage."""

    def __init__(self, head: ResponseMeta, *, with_usage: bool = True, begun: bool = False) -> None:
        self._head = head
        self._with_usage = with_usage
        self._begun = begun

    def write(self, delta: Delta) -> bytes:
        """The chunk that says this, if any."""
        match delta:
            case TextDelta(text):
                return self._chunk({"content": text})
            case RefusalDelta(text):
                return self._chunk({"refusal": text})
            case ReasoningDelta(text):
                return self._chunk({"reasoning_content": text})
            case ToolCallDelta(index, call_id, name, arguments, custom):
                kind, field = ("custom", "input") if custom else ("function", "arguments")
                call: dict[str, Any] = {"index": index, kind: {field: arguments}}
                if name is not None:
                    call = {"index": index, "id": call_id, "type": kind, kind: {"name": name, field: arguments}}
                return self._chunk({"tool_calls": [call]})
            case _:
                return b""

    def end(self, finish_reason: str, usage: Usage) -> bytes:
        """What ends the stream."""
        ended = self._chunk({}, FINISH_REASONS.get(finish_reason, finish_reason))
        if self._with_usage:
            ended += self.usage(usage)
        return ended + DONE

    def usage(self, usage: Usage) -> bytes:
        """The chunk that tells the usage."""
        return event(orjson.dumps(self._document([]) | {"usage": write_usage(usage)}))

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        if not self._begun:
            self._begun = True
            delta = {"role": "assistant", **delta}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event(orjson.dumps(self._document([choice])))

    def _document(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = self._head
        return {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "choices": choices,
        }


def write_stream_error(code: str, message: str) -> bytes:
    """The event that says that a running stream broke."""
    said = {"message": message, "type": "server_error", "param": None, "code": code}
    return event(orjson.dumps({"error": said}))
