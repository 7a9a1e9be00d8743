"""Anthropic's wire, messages and token counting, as the reference shows them."""

import json
from collections.abc import Iterator
from typing import Any

from journeys.upstream.script import SECRET, Answer, Body, Part, Usage
from journeys.upstream.wire import Frame

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_SIGNATURE = "c2lnbmVk"


class Messages:
    """POST /v1/messages."""

    name = "messages"
    media_type = "text/event-stream"

    def streams(self, body: Body) -> bool:
        return bool(body.get("stream"))

    def limit(self, body: Body) -> int | None:
        return body.get("max_tokens")

    def document(self, body: Body, answer: Answer, number: int) -> dict[str, Any]:
        blocks = [_block(part, place, part.text) for place, part in enumerate(answer.parts)]
        stop = _REASONS.get(answer.reason, answer.reason)
        return _empty_message(body, number) | {"content": blocks, "stop_reason": stop} | _usage(answer)

    def frames(self, body: Body, answer: Answer, number: int) -> Iterator[Frame]:
        first, final = _usage(answer), _usage(answer)
        if isinstance(usage := first.get("usage"), dict) and "output_tokens" in usage:
            first, final = {"usage": usage | {"output_tokens": 1}}, {"usage": {"output_tokens": usage["output_tokens"]}}
        yield _event("message_start", message=_empty_message(body, number) | first)
        for place, part in enumerate(answer.parts):
            yield _event("content_block_start", index=place, content_block=_block(part, place, ""))
            if place == 0:
                yield _event("ping")
            for text in part.chunks:
                event = _event("content_block_delta", index=place, delta=_delta(part, text))
                yield event._replace(part=f"{place}", text=text)
            if part.kind == "reasoning":
                signed = {"type": "signature_delta", "signature": _SIGNATURE}
                yield _event("content_block_delta", index=place, delta=signed)
            yield _event("content_block_stop", index=place)
        stop = {"stop_reason": _REASONS.get(answer.reason, answer.reason), "stop_sequence": None}
        yield _event("message_delta", delta=stop, **final)
        yield _event("message_stop")._replace(last=True)

    def error(self, status: int) -> dict[str, Any]:
        error = {"type": _ERRORS.get(status, "api_error"), "message": f"{SECRET} went wrong"}
        return {"type": "error", "error": error, "request_id": "req_1"}

    def error_frame(self, number: int) -> Frame:
        return Frame(self.error(529), event="error")


def count_tokens(answer: Answer) -> dict[str, Any]:
    """POST /v1/messages/count_tokens."""
    return {"input_tokens": answer.usage.input if isinstance(answer.usage, Usage) else answer.usage}


def anthropic_models(names: tuple[str, ...]) -> dict[str, Any]:
    """GET /v1/models in Anthropic's format."""
    data = [{"type": "model", "id": name, "display_name": name, "created_at": "2025-09-29T00:00:00Z"} for name in names]
    return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}


def _empty_message(body: Body, number: int) -> dict[str, Any]:
    """A message without content."""
    head = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": body["model"]}
    return head | {"content": [], "stop_reason": None, "stop_sequence": None}


def _usage(answer: Answer) -> dict[str, Any]:
    if not answer.reported:
        return {}
    usage = answer.usage
    if isinstance(usage, Usage):
        usage = {
            "input_tokens": usage.input - usage.cached - usage.cache_write,
            "cache_creation_input_tokens": usage.cache_write,
            "cache_read_input_tokens": usage.cached,
            "output_tokens": usage.output,
            "service_tier": "standard",
        }
    return {"usage": usage}


def _block(part: Part, place: int, text: str) -> dict[str, Any]:
    """A content block; at the start of a stream its text is empty."""
    if part.kind == "tool":
        return {"type": "tool_use", "id": f"toolu_{place}", "name": part.name, "input": _arguments(text)}
    if part.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": _SIGNATURE if text else ""}
    return {"type": "text", "text": text}


def _arguments(text: str) -> Any:
    """The arguments of a tool call; {} if they were cut."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _delta(part: Part, text: str) -> dict[str, Any]:
    if part.kind == "tool":
        return {"type": "input_json_delta", "partial_json": text}
    if part.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": text}
    return {"type": "text_delta", "text": text}


def _event(name: str, **fields: Any) -> Frame:
    return Frame({"type": name} | fields, event=name)
