"""Whole answers: a provider's into our nouns, ours onto the wire."""

from typing import Any, Literal

import msgspec
import orjson

from tollkeeper.chat import Completion, ToolCall, Usage
from tollkeeper.dialects.reading import BadAnswer, count
from tollkeeper.dialects.response_meta import ResponseMeta

_READ_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}
_WRITTEN_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Answer(msgspec.Struct):
    """What we need of a message; everything else is skipped unread."""

    type: Literal["message"]
    content: list[_Block]
    stop_reason: str | None = None
    stop_details: Any = None
    usage: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def read_answer(body: bytes) -> Completion:
    """A provider's message. Raises BadAnswer."""
    try:
        answer = _decode(body)
        calls = tuple(
            ToolCall(block.id or "", block.name or "", bytes(block.input).decode())
            for block in answer.content
            if block.type == "tool_use"
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer from error
    refusal = explanation(answer.stop_details)
    return Completion(
        "".join(block.text or "" for block in answer.content if block.type == "text") or refusal or "",
        finish_reason(answer.stop_reason or "end_turn"),
        read_usage(answer.usage),
        calls,
        refusal,
        "".join(block.thinking or "" for block in answer.content if block.type == "thinking") or None,
    )


def finish_reason(stop_reason: str) -> str:
    """Why an answer ended, in our words."""
    return _READ_REASONS.get(stop_reason, stop_reason)


def stop_reason(finish_reason: str, *, refused: bool = False) -> str:
    """Why an answer ended, in the wire's words."""
    if refused and finish_reason == "stop":
        return "refusal"
    return _WRITTEN_REASONS.get(finish_reason, finish_reason)


def explanation(details: Any) -> str | None:
    """What the provider says of its refusal."""
    said = details.get("explanation") if isinstance(details, dict) else None
    return said if isinstance(said, str) and said else None


def read_usage(reported: Any) -> Usage | None:
    """The usage as reported, or None when there is none or it is no usage.

    The wire counts tokens from and for the cache beside the others; ours are one sum.
    """
    if not isinstance(reported, dict):
        return None
    details = reported.get("output_tokens_details")
    fresh, output = count(reported.get("input_tokens")), count(reported.get("output_tokens"))
    cached = count(reported.get("cache_read_input_tokens") or 0)
    written = count(reported.get("cache_creation_input_tokens") or 0)
    if fresh is None or output is None or cached is None or written is None:
        return None
    whole = count(fresh + cached + written)
    thought = count(details.get("thinking_tokens")) if isinstance(details, dict) else None
    return None if whole is None else Usage(whole, output, cached, written, min(thought or 0, output))


def write_usage(usage: Usage) -> dict[str, Any]:
    fresh = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    written: dict[str, Any] = {
        "input_tokens": max(0, fresh),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        written["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return written


def write_answer(completion: Completion, head: ResponseMeta, usage: Usage) -> bytes:
    """A whole message. Arguments of a tool call that are no JSON object, say because they were cut, are left out.

    What was given to a custom tool, which is a text, stands in an object under `input`.
    """
    content: list[dict[str, Any]] = []
    if completion.reasoning:
        content.append({"type": "thinking", "thinking": completion.reasoning, "signature": ""})
    content += [{"type": "text", "text": text} for text in dict.fromkeys((completion.text, completion.refusal)) if text]
    for call in completion.tool_calls:
        given = {"input": call.arguments} if call.custom else _object(call.arguments)
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": given})
    ended = stop_reason(completion.finish_reason, refused=completion.refusal is not None)
    return orjson.dumps(message(head, content, ended, write_usage(usage)))


def message(head: ResponseMeta, content: list[Any], stop_reason: str | None, usage: dict[str, Any]) -> dict[str, Any]:
    """The document that a message is."""
    return {
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def write_token_count(input_tokens: int) -> bytes:
    """The answer of `/v1/messages/count_tokens`."""
    return orjson.dumps({"input_tokens": input_tokens})


def _object(arguments: str) -> dict[str, Any]:
    try:
        given = orjson.loads(arguments)
    except ValueError:
        return {}
    return given if isinstance(given, dict) else {}
