"""Ollama's native wire, as its API reference shows it: JSON lines, streamed by default."""

import json
from collections.abc import Iterator
from typing import Any

from journeys.upstream.script import SECRET, Answer, Body, Part, Usage
from journeys.upstream.wire import Frame

_REASONS = {"tool": "stop", "refusal": "stop"}
_AT = "2025-11-21T10:00:00.000000Z"
_FIELDS = {"text": "content", "refusal": "content", "reasoning": "thinking"}
_DURATIONS = {"total_duration": 5_000_000, "load_duration": 1_000_000}
_TIMES = {"prompt_eval_duration": 1_000_000, "eval_duration": 3_000_000}


class OllamaChat:
    """POST /api/chat. A tool call is sent whole, in one line."""

    name = "ollama"
    media_type = "application/x-ndjson"

    def streams(self, body: Body) -> bool:
        return bool(body.get("stream", True))

    def limit(self, body: Body) -> int | None:
        limit = (body.get("options") or {}).get("num_predict")
        return None if limit is None or limit < 0 else int(limit)

    def document(self, body: Body, answer: Answer, number: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        for part in answer.parts:
            if part.kind == "tool":
                message.setdefault("tool_calls", []).append(_tool(part))
            else:
                message[_FIELDS[part.kind]] = part.text
        return _line(body, message) | _end(answer)

    def frames(self, body: Body, answer: Answer, number: int) -> Iterator[Frame]:
        for place, part in enumerate(answer.parts):
            for text in (part.text,) if part.kind == "tool" else part.chunks:
                message: dict[str, Any] = {"role": "assistant", "content": ""}
                message |= {"tool_calls": [_tool(part)]} if part.kind == "tool" else {_FIELDS[part.kind]: text}
                yield Frame(_line(body, message), part=f"{place}", text=text)
        yield Frame(_line(body, {"role": "assistant", "content": ""}) | _end(answer), last=True)

    def error(self, status: int) -> dict[str, Any]:
        return {"error": f"{SECRET} went wrong"}

    def error_frame(self, number: int) -> Frame:
        return Frame(self.error(500))


def ollama_models(names: tuple[str, ...]) -> dict[str, Any]:
    """GET /api/tags."""
    details = {"format": "gguf", "family": "llama", "parameter_size": "3.2B", "quantization_level": "Q4_K_M"}
    common = {"modified_at": _AT, "size": 2_019_393_189, "digest": "a80c4f17acd5", "details": details}
    return {"models": [{"name": f"{name}:latest", "model": f"{name}:latest"} | common for name in names]}


def _line(body: Body, message: dict[str, Any]) -> dict[str, Any]:
    return {"model": body["model"], "created_at": _AT, "message": message, "done": False}


def _end(answer: Answer) -> dict[str, Any]:
    end = {"done": True, "done_reason": _REASONS.get(answer.reason, answer.reason)} | _DURATIONS | _TIMES
    usage = answer.usage
    if not answer.reported:
        return end
    if isinstance(usage, Usage):
        usage = {"prompt_eval_count": usage.input, "eval_count": usage.output}
    return end | (usage if isinstance(usage, dict) else {"prompt_eval_count": usage, "eval_count": usage})


def _tool(part: Part) -> dict[str, Any]:
    try:
        arguments = json.loads(part.text)
    except ValueError:
        arguments = {}
    return {"function": {"name": part.name, "arguments": arguments}}
