"""Whole answers: a provider's into our nouns, ours onto the wire."""

from typing import Any

import msgspec
import orjson

from tollkeeper.chat import Completion, ToolCall, Usage
from tollkeeper.dialects.head import Head
from tollkeeper.dialects.reading import BadAnswer, count


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str = ""
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    error: Any = None


class _Answer(msgspec.Struct):
    """What we need of a chat completion; everything else is skipped unread."""

    choices: list[_Choice]
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def read_answer(body: bytes) -> Completion:
    """A provider's chat completion: its first choice. Raises BadAnswer, also for one that tells of an error."""
    try:
        answer = _decode(body)
        first = answer.choices[0]
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError, RecursionError) as error:
        raise BadAnswer from error
    if answer.error is not None or any(map(_failed, answer.choices)):
        raise BadAnswer
    message = first.message
    calls = tuple(
        ToolCall(call.id, call.function.name, call.function.arguments)
        for call in message.tool_calls or ()
        if call.function is not None
    )
    text = message.content if message.content is not None else message.refusal or ""
    if len(answer.choices) > 1:
        text += "".join(choice.message.content or "" for choice in answer.choices[1:])
    return Completion(
        text,
        first.finish_reason or "stop",
        read_usage(answer.usage),
        calls,
        message.refusal if message.content is None else None,
        message.reasoning_content,
    )


def _failed(choice: _Choice) -> bool:
    return choice.error is not None or choice.finish_reason == "error"


def read_usage(reported: Any) -> Usage | None:
    """The usage as reported, or None when there is none or it is no usage."""
    if not isinstance(reported, dict):
        return None
    read, written = _details(reported, "prompt_tokens_details"), _details(reported, "completion_tokens_details")
    sent, received = count(reported.get("prompt_tokens")), count(reported.get("completion_tokens"))
    cached = count(read.get("cached_tokens") or 0)
    if sent is None or received is None or cached is None or cached > sent:
        return None
    written_to_cache, reasoning = count(read.get("cache_write_tokens")), count(written.get("reasoning_tokens"))
    return Usage(sent, received, cached, written_to_cache or 0, reasoning or 0)


def _details(reported: dict[str, Any], name: str) -> dict[str, Any]:
    found = reported.get(name)
    return found if isinstance(found, dict) else {}


def write_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


FINISH_REASONS = {"refusal": "stop"}
"""Ours that this wire has another word for."""


def write_answer(completion: Completion, head: Head, usage: Usage) -> bytes:
    """A whole chat completion."""
    refused = completion.refusal is not None
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if refused or (completion.tool_calls and not completion.text) else completion.text,
        "refusal": completion.refusal,
    }
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if completion.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in completion.tool_calls
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(completion)}
    return orjson.dumps(
        {
            "id": head.id,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": [choice],
            "usage": write_usage(usage),
        }
    )


def finish_reason(completion: Completion) -> str:
    return FINISH_REASONS.get(completion.finish_reason, completion.finish_reason)
