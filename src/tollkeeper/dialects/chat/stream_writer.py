"""Writes a streamed answer as chunks."""

from typing import Any

import orjson

from tollkeeper.chat import Delta, ReasoningDelta, ReasoningEnd, RefusalDelta, TextDelta, ToolCallDelta, Usage
from tollkeeper.dialects.chat.answer_writer import write_finish_reason, write_usage
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.sse import DONE, event


class StreamWriter:
    """Writes one answer as chunks. `begun`: the first chunk has been sent. `with_usage`: a last chunk has the usage."""

    def __init__(self, meta: ResponseMeta, *, with_usage: bool = True, begun: bool = False) -> None:
        self._meta = meta
        self._with_usage = with_usage
        self._begun = begun
        self._seals: list[str] = []
        """The sealed signatures of the reasoning before the first tool call, which takes it if there is one."""
        self._called = False
        self._without_arguments: set[int] = set()
        """The tool calls of which no arguments were received: they end with an empty object."""

    def write(self, delta: Delta) -> bytes:
        """The chunk with this delta; empty for a delta that has no chunk of its own."""
        match delta:
            case TextDelta(text):
                return self._chunk({"content": text})
            case RefusalDelta(text):
                return self._chunk({"refusal": text})
            case ReasoningDelta(text):
                return self._chunk({"reasoning_content": text})
            case ReasoningEnd(signature):
                self._seals.append(signature)
                return b""
            case ToolCallDelta(index, call_id, name, arguments, custom):
                kind, field = ("custom", "input") if custom else ("function", "arguments")
                call: dict[str, Any] = {"index": index, kind: {field: arguments}}
                if arguments or custom:
                    self._without_arguments.discard(index)
                elif call_id is not None:
                    self._without_arguments.add(index)
                if name is not None and call_id is None:
                    call[kind]["name"] = name
                elif name is not None:
                    sealed_id = self._sealed(call_id or "")
                    call = {"index": index, "id": sealed_id, "type": kind, kind: {"name": name, field: arguments}}
                return self._chunk({"tool_calls": [call]})
            case _:
                return b""

    def _sealed(self, call_id: str) -> str:
        """The id of a call; that of the first with the seal of the reasoning."""
        called, self._called = self._called, True
        return call_id + self._seals[0] if not called and len(self._seals) == 1 else call_id

    def end(self, finish_reason: str, usage: Usage) -> bytes:
        """The chunks that end the answer."""
        missing = [{"index": index, "function": {"arguments": "{}"}} for index in sorted(self._without_arguments)]
        chunks = self._chunk({"tool_calls": missing}) if missing else b""
        chunks += self._chunk({}, write_finish_reason(finish_reason))
        if self._with_usage:
            chunks += self.write_usage(usage)
        return chunks + DONE

    def write_usage(self, usage: Usage) -> bytes:
        """The chunk with the usage."""
        return event(orjson.dumps(self._document([]) | {"usage": write_usage(usage)}))

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        if not self._begun:
            self._begun = True
            delta = {"role": "assistant", **delta}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event(orjson.dumps(self._document([choice])))

    def _document(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._meta.id,
            "object": "chat.completion.chunk",
            "created": self._meta.created,
            "model": self._meta.model,
            "choices": choices,
        }


def write_stream_error(error_type: str, code: str, message: str) -> bytes:
    """The event for a stream that fails after its first chunk."""
    error = {"message": message, "type": error_type, "param": None, "code": code}
    return event(orjson.dumps({"error": error}))
