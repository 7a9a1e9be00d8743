"""A streamed answer, written: every event that OpenAI's own clients expect, in their order."""

from typing import Any

import orjson

from tollkeeper.chat import Delta, FinishReason, ReasoningDelta, RefusalDelta, TextDelta, ToolCall, ToolCallDelta, Usage
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses import output
from tollkeeper.dialects.responses.answer import incomplete_reason
from tollkeeper.dialects.sse import event

PARTS = {"output_text": output.text_part, "refusal": output.refusal_part}
FIELDS = {"output_text": "text", "refusal": "refusal"}
"""Under which name a part of that kind holds its text."""


class _Message:
    """A message in the making: its parts that are done, and the one that is open."""

    def __init__(self, item_id: str, index: int) -> None:
        self.id, self.index = item_id, index
        self.done: list[dict[str, Any]] = []
        self.kind: str | None = None
        self.pieces: list[str] = []


class _Reasoning:
    def __init__(self, item_id: str, index: int) -> None:
        self.id, self.index = item_id, index
        self.pieces: list[str] = []


class _Call:
    """A tool call in the making. It stays open to the end: pieces of several calls may come by turns."""

    def __init__(self, item_id: str, index: int, call: ToolCall) -> None:
        self.id, self.index = item_id, index
        self.call = call
        self.pieces: list[str] = []
        self.open = True

    @property
    def event(self) -> str:
        """What events name that tell of what is given to the tool."""
        return "response.custom_tool_call_input" if self.call.custom else "response.function_call_arguments"

    @property
    def field(self) -> str:
        return "input" if self.call.custom else "arguments"

    def item(self, status: str) -> dict[str, Any]:
        return output.call(self.id, self.call._replace(arguments="".join(self.pieces)), status)


class StreamWriter:
    """Puts deltas into events. The same deltas give the same bytes."""

    def __init__(self, head: ResponseMeta) -> None:
        self._head = head
        self.sequence_number = 0
        """Of the event that comes next."""
        self._items: dict[int, dict[str, Any] | None] = {}
        self._open: _Message | _Reasoning | None = None
        self._calls: dict[int, _Call] = {}
        self._refused = False

    def write(self, delta: Delta) -> bytes:
        """The events that tell it; none for Finish and Usage, which are for `end`."""
        match delta:
            case TextDelta(text) if text:
                return self._begin() + self._spoken("output_text", text)
            case RefusalDelta(text) if text:
                self._refused = True
                return self._begin() + self._spoken("refusal", text)
            case ReasoningDelta(text) if text:
                return self._begin() + self._thought(text)
            case ToolCallDelta():
                return self._begin() + self._called(delta)
            case _:
                return b""

    def end(self, finish_reason: FinishReason, usage: Usage) -> bytes:
        """Everything that closes the answer, with the whole of it in the last event."""
        reason = incomplete_reason(finish_reason, refused=self._refused)
        status = output.COMPLETED if reason is None else output.INCOMPLETE
        last = max(self._items, default=0)
        out = self._begin() + self._close(status)
        for call in filter(lambda call: call.open, self._calls.values()):
            out += self._close_call(call, status if call.index == last else output.COMPLETED)
        items = [item for _, item in sorted(self._items.items()) if item is not None]
        response = output.response(self._head, status, items, usage, reason)
        return out + self._event(f"response.{status}", response=response)

    def take_over(self, index: int, item: dict[str, Any]) -> None:
        """Someone else has begun this item, and what is written now is in it."""
        self._items[index] = item
        item_id = str(item.get("id"))
        match item.get("type"):
            case "message":
                self._open = _Message(item_id, index)
            case "reasoning":
                self._open = _Reasoning(item_id, index)
            case "function_call" | "custom_tool_call" as kind:
                told = ToolCall(str(item.get("call_id")), str(item.get("name")), "", kind == "custom_tool_call")
                self._calls[len(self._calls)] = _Call(item_id, index, told)

    def leave(self, index: int, item: dict[str, Any]) -> None:
        """They have ended it, too."""
        self._items[index] = item
        if self._open is not None and self._open.index == index:
            self._open = None
        for call in self._calls.values():
            call.open &= call.index != index

    def _begin(self) -> bytes:
        if self.sequence_number:
            return b""
        response = output.response(self._head, output.IN_PROGRESS, [], None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _spoken(self, kind: str, text: str) -> bytes:
        out = b""
        spoken = self._open
        if not isinstance(spoken, _Message):
            out += self._close(output.COMPLETED)
            self._open = spoken = _Message(self._new_id("msg"), len(self._items))
            out += self._added(output.message(spoken.id, [], output.IN_PROGRESS))
        if spoken.kind != kind:
            out += self._close_part(spoken)
            spoken.kind = kind
            out += self._part_event("response.content_part.added", spoken, part=PARTS[kind](""))
        spoken.pieces.append(text)
        logprobs: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        return out + self._part_event(f"response.{kind}.delta", spoken, delta=text, **logprobs)

    def _thought(self, text: str) -> bytes:
        out = b""
        thought = self._open
        if not isinstance(thought, _Reasoning):
            out += self._close(output.COMPLETED)
            self._open = thought = _Reasoning(self._new_id("rs"), len(self._items))
            out += self._added(output.reasoning(thought.id, None))
            out += self._summary_event("response.reasoning_summary_part.added", thought, part=output.summary_part(""))
        thought.pieces.append(text)
        return out + self._summary_event("response.reasoning_summary_text.delta", thought, delta=text)

    def _called(self, delta: ToolCallDelta) -> bytes:
        out = b""
        call = self._calls.get(delta.index)
        if call is None:
            out += self._close(output.COMPLETED)
            told = ToolCall(delta.id or "", delta.name or "", "", delta.custom)
            item_id = self._new_id(output.call_prefix(told))
            call = _Call(item_id, len(self._items), told._replace(id=told.id or f"call_{item_id}"))
            self._calls[delta.index] = call
            out += self._added(call.item(output.IN_PROGRESS))
        if not delta.arguments:
            return out
        call.pieces.append(delta.arguments)
        return out + self._event(f"{call.event}.delta", item_id=call.id, output_index=call.index, delta=delta.arguments)

    def _close(self, status: str) -> bytes:
        """Closes what is open beside tool calls."""
        match self._open:
            case _Message() as spoken:
                out = self._close_part(spoken)
                item = output.message(spoken.id, spoken.done, status)
            case _Reasoning() as thought:
                out, text = b"", "".join(thought.pieces) or None
                if text is not None:
                    out = self._summary_event("response.reasoning_summary_text.done", thought, text=text)
                    part = output.summary_part(text)
                    out += self._summary_event("response.reasoning_summary_part.done", thought, part=part)
                item = output.reasoning(thought.id, text)
            case None:
                return b""
        index, self._open = self._open.index, None
        return out + self._done(index, item)

    def _close_part(self, spoken: _Message) -> bytes:
        if spoken.kind is None:
            return b""
        text, kind = "".join(spoken.pieces), spoken.kind
        part = PARTS[kind](text)
        logprobs: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        out = self._part_event(f"response.{kind}.done", spoken, **{FIELDS[kind]: text}, **logprobs)
        out += self._part_event("response.content_part.done", spoken, part=part)
        spoken.done.append(part)
        spoken.kind, spoken.pieces = None, []
        return out

    def _close_call(self, call: _Call, status: str) -> bytes:
        item = call.item(status)
        where = {"item_id": call.id, "output_index": call.index}
        out = self._event(f"{call.event}.done", **where, **{call.field: item[call.field]})
        return out + self._done(call.index, item)

    def _new_id(self, prefix: str) -> str:
        return output.new_id(prefix, self._head, len(self._items))

    def _added(self, item: dict[str, Any]) -> bytes:
        index = len(self._items)
        self._items[index] = None
        return self._event("response.output_item.added", output_index=index, item=item)

    def _done(self, index: int, item: dict[str, Any]) -> bytes:
        self._items[index] = item
        return self._event("response.output_item.done", output_index=index, item=item)

    def _part_event(self, name: str, spoken: _Message, **fields: Any) -> bytes:
        where = {"item_id": spoken.id, "output_index": spoken.index, "content_index": len(spoken.done)}
        return self._event(name, **where, **fields)

    def _summary_event(self, name: str, thought: _Reasoning, **fields: Any) -> bytes:
        return self._event(name, item_id=thought.id, output_index=thought.index, summary_index=0, **fields)

    def _event(self, name: str, **fields: Any) -> bytes:
        document = {"type": name, "sequence_number": self.sequence_number, **fields}
        self.sequence_number += 1
        return event(orjson.dumps(document), name)


def write_stream_error(kind: str, code: str, message: str, sequence_number: int = 0) -> bytes:
    """The event that says that a running stream broke.

    The reference shows it flat ("Streaming events", error); OpenAI's own clients raise only for an `error` in it.
    """
    said = {"code": code, "message": message, "param": None}
    document = {"type": "error", **said, "sequence_number": sequence_number, "error": {"type": kind, **said}}
    return event(orjson.dumps(document), "error")
