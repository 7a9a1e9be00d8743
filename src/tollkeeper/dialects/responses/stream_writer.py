"""Writes a streamed answer: every event that OpenAI's own clients expect, in their order."""

from collections.abc import Mapping
from typing import Any

import orjson

from tollkeeper.chat import (
    Delta,
    FinishReason,
    ReasoningDelta,
    ReasoningEnd,
    RefusalDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses import output_items
from tollkeeper.dialects.responses.answer_writer import incomplete_reason
from tollkeeper.dialects.responses.namespaces import NO_NAMESPACES, ToolName, flat_name
from tollkeeper.dialects.sse import event

PARTS = {"output_text": output_items.text_part, "refusal": output_items.refusal_part}
TEXT_FIELDS = {"output_text": "text", "refusal": "refusal"}
"""The field that holds the text of a part, by the part's type."""


class _OpenMessage:
    """A message that is being written: its finished parts, and the type and the texts of the open one."""

    def __init__(self, item_id: str, index: int) -> None:
        self.id, self.index = item_id, index
        self.finished_parts: list[dict[str, Any]] = []
        self.part_type: str | None = None
        self.texts: list[str] = []


class _OpenReasoning:
    def __init__(self, item_id: str, index: int) -> None:
        self.id, self.index = item_id, index
        self.texts: list[str] = []
        self.signature = ""


class _ToolCallItem:
    """A tool call. It stays open to the end of the stream, because the deltas of several calls may alternate."""

    def __init__(self, item_id: str, index: int, call: ToolCall) -> None:
        self.id, self.index = item_id, index
        self.call = call
        self.arguments: list[str] = []
        self.open = True

    @property
    def event_stem(self) -> str:
        """The type of the events with its arguments, without `.delta` or `.done`."""
        return "response.custom_tool_call_input" if self.call.custom else "response.function_call_arguments"

    @property
    def field(self) -> str:
        """The field that holds its arguments."""
        return "input" if self.call.custom else "arguments"

    def item(self, status: str, tool_names: Mapping[str, ToolName]) -> dict[str, Any]:
        call = self.call._replace(arguments="".join(self.arguments))
        return output_items.tool_call_item(self.id, call, status, tool_names)


class StreamWriter:
    """Writes deltas as events. The same deltas give the same bytes. `tool_names` as in the item of a call."""

    def __init__(self, meta: ResponseMeta, tool_names: Mapping[str, ToolName] = NO_NAMESPACES) -> None:
        self._meta = meta
        self._tool_names = tool_names
        self.sequence_number = 0
        """The number of the next event."""
        self._items: dict[int, dict[str, Any] | None] = {}
        """The output items by index; None for one that is still open."""
        self._open: _OpenMessage | _OpenReasoning | None = None
        self._calls: dict[int, _ToolCallItem] = {}
        self._refused = False

    def write(self, delta: Delta) -> bytes:
        """The events of a delta; none for Finish and Usage, which `end` takes."""
        match delta:
            case TextDelta(text) if text:
                return self._begin() + self._write_text("output_text", text)
            case RefusalDelta(text) if text:
                self._refused = True
                return self._begin() + self._write_text("refusal", text)
            case ReasoningDelta(text) if text:
                return self._begin() + self._write_reasoning(text)
            case ReasoningEnd(signature):
                return self._begin() + self._end_reasoning(signature)
            case ToolCallDelta():
                return self._begin() + self._write_tool_call(delta)
            case _:
                return b""

    def end(self, finish_reason: FinishReason, usage: Usage) -> bytes:
        """The events that close every open item, and the last event with the whole response."""
        reason = incomplete_reason(finish_reason, refused=self._refused)
        status = output_items.COMPLETED if reason is None else output_items.INCOMPLETE
        last = max(self._items, default=0)
        written = self._begin() + self._close(status)
        for call in filter(lambda call: call.open, self._calls.values()):
            written += self._close_call(call, status if call.index == last else output_items.COMPLETED)
        items = [item for _, item in sorted(self._items.items()) if item is not None]
        response = output_items.response(self._meta, status, items, usage, reason)
        return written + self._event(f"response.{status}", response=response)

    def resume_item(self, index: int, item: dict[str, Any]) -> None:
        """Continue an item that the provider began: the next deltas belong to it."""
        self._items[index] = item
        item_id = str(item.get("id"))
        match item.get("type"):
            case "message":
                self._open = _OpenMessage(item_id, index)
            case "reasoning":
                self._open = _OpenReasoning(item_id, index)
            case "function_call" | "custom_tool_call" as kind:
                name = str(item.get("name"))
                if namespace := item.get("namespace"):
                    tool_name = ToolName(str(namespace), name)
                    name = flat_name(*tool_name)
                    self._tool_names = {**self._tool_names, name: tool_name}
                call = ToolCall(str(item.get("call_id")), name, "", kind == "custom_tool_call")
                self._calls[len(self._calls)] = _ToolCallItem(item_id, index, call)

    def finish_item(self, index: int, item: dict[str, Any]) -> None:
        """Record an item that the provider finished: `end` does not close it again."""
        self._items[index] = item
        if self._open is not None and self._open.index == index:
            self._open = None
        for call in self._calls.values():
            call.open &= call.index != index

    def _begin(self) -> bytes:
        if self.sequence_number:
            return b""
        response = output_items.response(self._meta, output_items.IN_PROGRESS, [], None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _write_text(self, part_type: str, text: str) -> bytes:
        written = b""
        message = self._open
        if not isinstance(message, _OpenMessage):
            written += self._close(output_items.COMPLETED)
            self._open = message = _OpenMessage(self._next_item_id("msg"), len(self._items))
            written += self._item_added(output_items.message_item(message.id, [], output_items.IN_PROGRESS))
        if message.part_type != part_type:
            written += self._close_part(message)
            message.part_type = part_type
            written += self._part_event("response.content_part.added", message, part=PARTS[part_type](""))
        message.texts.append(text)
        logprobs: dict[str, Any] = {"logprobs": []} if part_type == "output_text" else {}
        return written + self._part_event(f"response.{part_type}.delta", message, delta=text, **logprobs)

    def _write_reasoning(self, text: str) -> bytes:
        written = b""
        reasoning = self._open
        if not isinstance(reasoning, _OpenReasoning):
            reasoning, written = self._start_reasoning()
            part = output_items.summary_part("")
            written += self._summary_event("response.reasoning_summary_part.added", reasoning, part=part)
        reasoning.texts.append(text)
        return written + self._summary_event("response.reasoning_summary_text.delta", reasoning, delta=text)

    def _start_reasoning(self) -> tuple[_OpenReasoning, bytes]:
        written = self._close(output_items.COMPLETED)
        self._open = reasoning = _OpenReasoning(self._next_item_id("rs"), len(self._items))
        return reasoning, written + self._item_added(output_items.reasoning_item(reasoning.id, None))

    def _end_reasoning(self, signature: str) -> bytes:
        written, reasoning = b"", self._open
        if not isinstance(reasoning, _OpenReasoning):
            reasoning, written = self._start_reasoning()
        reasoning.signature = signature
        return written + self._close(output_items.COMPLETED)

    def _write_tool_call(self, delta: ToolCallDelta) -> bytes:
        written = b""
        item = self._calls.get(delta.index)
        if item is None:
            written += self._close(output_items.COMPLETED)
            call = ToolCall(delta.id or "", delta.name or "", "", delta.custom)
            item_id = self._next_item_id(output_items.tool_call_id_prefix(call))
            item = _ToolCallItem(item_id, len(self._items), call._replace(id=call.id or f"call_{item_id}"))
            self._calls[delta.index] = item
            written += self._item_added(item.item(output_items.IN_PROGRESS, self._tool_names))
        elif delta.name:
            item.call = item.call._replace(name=item.call.name + delta.name)
        if not delta.arguments:
            return written
        item.arguments.append(delta.arguments)
        where = {"item_id": item.id, "output_index": item.index}
        return written + self._event(f"{item.event_stem}.delta", **where, delta=delta.arguments)

    def _close(self, status: str) -> bytes:
        """Close the open message or reasoning."""
        match self._open:
            case _OpenMessage() as message:
                written = self._close_part(message)
                item = output_items.message_item(message.id, message.finished_parts, status)
            case _OpenReasoning() as reasoning:
                written, text = b"", "".join(reasoning.texts) or None
                if text is not None:
                    written = self._summary_event("response.reasoning_summary_text.done", reasoning, text=text)
                    part = output_items.summary_part(text)
                    written += self._summary_event("response.reasoning_summary_part.done", reasoning, part=part)
                item = output_items.reasoning_item(reasoning.id, text, reasoning.signature)
            case None:
                return b""
        index, self._open = self._open.index, None
        return written + self._item_done(index, item)

    def _close_part(self, message: _OpenMessage) -> bytes:
        if message.part_type is None:
            return b""
        text, part_type = "".join(message.texts), message.part_type
        part = PARTS[part_type](text)
        logprobs: dict[str, Any] = {"logprobs": []} if part_type == "output_text" else {}
        fields = {TEXT_FIELDS[part_type]: text, **logprobs}
        written = self._part_event(f"response.{part_type}.done", message, **fields)
        written += self._part_event("response.content_part.done", message, part=part)
        message.finished_parts.append(part)
        message.part_type, message.texts = None, []
        return written

    def _close_call(self, call: _ToolCallItem, status: str) -> bytes:
        item = call.item(status, self._tool_names)
        where = {"item_id": call.id, "output_index": call.index}
        written = b""
        if not any(call.arguments) and item[call.field]:
            written = self._event(f"{call.event_stem}.delta", **where, delta=item[call.field])
        written += self._event(f"{call.event_stem}.done", **where, **{call.field: item[call.field]})
        return written + self._item_done(call.index, item)

    def _next_item_id(self, prefix: str) -> str:
        return output_items.item_id(prefix, self._meta, len(self._items))

    def _item_added(self, item: dict[str, Any]) -> bytes:
        index = len(self._items)
        self._items[index] = None
        return self._event("response.output_item.added", output_index=index, item=item)

    def _item_done(self, index: int, item: dict[str, Any]) -> bytes:
        self._items[index] = item
        return self._event("response.output_item.done", output_index=index, item=item)

    def _part_event(self, name: str, message: _OpenMessage, **fields: Any) -> bytes:
        content_index = len(message.finished_parts)
        where = {"item_id": message.id, "output_index": message.index, "content_index": content_index}
        return self._event(name, **where, **fields)

    def _summary_event(self, name: str, reasoning: _OpenReasoning, **fields: Any) -> bytes:
        return self._event(name, item_id=reasoning.id, output_index=reasoning.index, summary_index=0, **fields)

    def _event(self, name: str, **fields: Any) -> bytes:
        document = {"type": name, "sequence_number": self.sequence_number, **fields}
        self.sequence_number += 1
        return event(orjson.dumps(document), name)


def write_stream_error(error_type: str, code: str, message: str, sequence_number: int = 0) -> bytes:
    """The event for an error in a running stream.

    The reference gives the error's fields at the top level ("Streaming events", error). OpenAI's own clients raise only
    for an `error` object, so the event has both.
    """
    fields = {"code": code, "message": message, "param": None}
    document = {"type": "error", **fields, "sequence_number": sequence_number, "error": {"type": error_type, **fields}}
    return event(orjson.dumps(document), "error")
