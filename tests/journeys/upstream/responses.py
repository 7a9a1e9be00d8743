"""OpenAI's responses wire, as the reference shows it."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from journeys.upstream.openai import OpenAI
from journeys.upstream.script import SECRET, Answer, Body, Part, Usage
from journeys.upstream.wire import CREATED, Frame

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "metadata": {},
}
_DELTAS = {
    "text": "response.output_text.delta",
    "refusal": "response.refusal.delta",
    "reasoning": "response.reasoning_summary_text.delta",
    "tool": "response.function_call_arguments.delta",
}


class Responses(OpenAI):
    """POST /v1/responses. The reasoning is sent as a summary."""

    name = "responses"

    def limit(self, body: Body) -> int | None:
        return body.get("max_output_tokens")

    def document(self, body: Body, answer: Answer, number: int) -> dict[str, Any]:
        document = _empty_response(body, number)
        document["output"] = [_item(part, place, part.text) for place, part in enumerate(answer.parts)]
        document["usage"] = _usage(answer.usage) if answer.reported else None
        document["status"] = "completed"
        if answer.reason in _INCOMPLETE:
            document["status"] = "incomplete"
            document["incomplete_details"] = {"reason": _INCOMPLETE[answer.reason]}
        if answer.reason == "failed":
            document["status"] = "failed"
            document["error"] = {"code": "server_error", "message": f"{SECRET} went wrong"}
        return document

    def frames(self, body: Body, answer: Answer, number: int) -> Iterator[Frame]:
        numbers = count()

        def event(kind: str, **fields: Any) -> Frame:
            return Frame({"type": kind, "sequence_number": next(numbers)} | fields, event=kind)

        yield event("response.created", response=_empty_response(body, number))
        yield event("response.in_progress", response=_empty_response(body, number))
        for place, part in enumerate(answer.parts):
            open_item = _item(part, place, "", status="in_progress")
            yield event("response.output_item.added", output_index=place, item=open_item)
            where = {"item_id": open_item["id"], "output_index": place}
            part_names = _content_part_names(part)
            if part_names:
                where[part_names[1]] = 0
                yield event(f"response.{part_names[0]}.added", **where, part=_content_part(part, ""))
            more: dict[str, Any] = {"logprobs": []} if part.kind == "text" else {}
            for text in part.chunks:
                yield event(_DELTAS[part.kind], **where, delta=text, **more)._replace(part=f"{place}", text=text)
            done = {"refusal": "refusal", "tool": "arguments"}.get(part.kind, "text")
            yield event(_DELTAS[part.kind].removesuffix("delta") + "done", **where, **{done: part.text}, **more)
            if part_names:
                yield event(f"response.{part_names[0]}.done", **where, part=_content_part(part, part.text))
            yield event("response.output_item.done", output_index=place, item=_item(part, place, part.text))
        final = self.document(body, answer, number)
        yield event(f"response.{final['status']}", response=final)._replace(last=True)

    def error_frame(self, number: int) -> Frame:
        error = {"type": "error", "code": "server_error", "message": f"{SECRET} went wrong", "param": None}
        return Frame(error | {"sequence_number": number}, event="error")


def _empty_response(body: Body, number: int) -> dict[str, Any]:
    """A response without output, with the parameters of the request."""
    echoed = _ECHOED | {name: body[name] for name in _ECHOED if body.get(name) is not None}
    return echoed | {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": CREATED,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": body["model"],
        "output": [],
        "reasoning": {"effort": None, "summary": None},
        "usage": None,
    }


def _usage(usage: Any) -> Any:
    if not isinstance(usage, Usage):
        return usage
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


def _item(part: Part, place: int, text: str, status: str = "completed") -> dict[str, Any]:
    """An item of the output, which is empty while in progress."""
    content = [_content_part(part, text)] if status == "completed" else []
    if part.kind == "tool":
        call = {"call_id": f"call_{place}", "name": part.name, "arguments": text}
        return {"id": f"fc_{place}", "type": "function_call", "status": status} | call
    if part.kind == "reasoning":
        return {"id": f"rs_{place}", "type": "reasoning", "summary": content}
    return {"id": f"item_{place}", "type": "message", "status": status, "role": "assistant", "content": content}


def _content_part_names(part: Part) -> tuple[str, str] | None:
    """The names of an item's content parts and of their index in events."""
    if part.kind == "tool":
        return None
    return (
        ("reasoning_summary_part", "summary_index") if part.kind == "reasoning" else ("content_part", "content_index")
    )


def _content_part(part: Part, text: str) -> dict[str, Any]:
    if part.kind == "refusal":
        return {"type": "refusal", "refusal": text}
    if part.kind == "reasoning":
        return {"type": "summary_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
