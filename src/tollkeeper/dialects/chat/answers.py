"""Whole answers: a provider's into our nouns, ours onto the wire."""

from typing import Any

import msgspec
import orjson

from tollkeeper.chat import Completion, ToolCall, Usage
from tollkeeper.dialects.reading import BadAnswer, count
from tollkeeper.dialects.response_meta import ResponseMeta


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


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
    """A provider's chat completion. Of several choices everything that was said is there, as if it were one answer.

    Raises BadAnswer, also for one that tells of an error.
    """
    try:
        answer = _decode(body)
        first = answer.choices[0]
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError, RecursionError) as error:
        raise BadAnswer from error
    if answer.error is not None or any(map(_failed, answer.choices)):
        raise BadAnswer
    message = first.message
    text, calls, thought = message.content or message.refusal or "", _calls(message), _thought(message)
    for choice in answer.choices[1:]:
        text += choice.message.content or choice.message.refusal or ""
        calls += _calls(choice.message)
        thought += _thought(choice.message)
    refusal = (message.refusal or None) if len(answer.choices) == 1 else None
    return Completion(text, first.finish_reason or "stop", read_usage(answer.usage), calls, refusal, thought or None)


def _thought(message: _Message) -> str:
    """Servers have two names for it; under the second one, some may mean something else."""
    if message.reasoning_content:
        return message.reasoning_content
    return message.reasoning if isinstance(message.reasoning, str) else ""


def _calls(message: _Message) -> tuple[ToolCall, ...]:
    if not message.tool_calls and message.function_call is None:
        return ()
    calls = [called for call in message.tool_calls or () if (called := _read_call(call)) is not None]
    old = message.function_call
    if old is not None and (old.name or old.arguments):
        calls.append(ToolCall("", old.name or "", old.arguments or ""))
    return tuple(calls)


def _read_call(call: _Call) -> ToolCall | None:
    if (custom := call.custom) is not None:
        return ToolCall(call.id or "", custom.name or "", custom.input or "", custom=True)
    if (function := call.function) is None:
        return None
    return ToolCall(call.id or "", function.name or "", function.arguments or "")


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
    written_to_cache = count(read.get("cache_write_tokens")) or 0
    reasoning = count(written.get("reasoning_tokens")) or 0
    if reasoning and reported.get("total_tokens") == sent + received + reasoning:
        received += reasoning  # as xAI counts: thinking is beside what was said, and only the total has both
    return Usage(sent, received, cached, written_to_cache, reasoning)


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


def write_answer(completion: Completion, head: ResponseMeta, usage: Usage) -> bytes:
    """A whole chat completion."""
    text = "" if completion.text == completion.refusal else completion.text
    without_text = not text and (completion.refusal is not None or completion.tool_calls)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if without_text else text,
        "refusal": completion.refusal,
    }
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if completion.tool_calls:
        message["tool_calls"] = [write_call(call) for call in completion.tool_calls]
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


def write_call(call: ToolCall) -> dict[str, Any]:
    """A call, as answers tell it and requests repeat it."""
    if call.custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def finish_reason(completion: Completion) -> str:
    return FINISH_REASONS.get(completion.finish_reason, completion.finish_reason)
