"""Reads whole answers."""

from typing import Any

import msgspec

from tollkeeper.chat import Completion, ToolCall, Usage
from tollkeeper.dialects.answer_checks import MalformedAnswer, token_count


class _FunctionCall(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CustomCall(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _FunctionCall | None = None
    custom: _CustomCall | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _FunctionCall | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    error: Any = None


class _Answer(msgspec.Struct):
    """The fields of a chat completion that metering and a Completion need."""

    choices: list[_Choice]
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def read_answer(body: bytes) -> Completion:
    """Read a chat completion. The texts, tool calls and reasoning of several choices are joined into one answer.

    Raises MalformedAnswer if it is malformed, or contains an error.
    """
    try:
        answer = _decode(body)
        first = answer.choices[0]
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError, RecursionError) as error:
        raise MalformedAnswer from error
    if answer.error is not None or any(map(_has_error, answer.choices)):
        raise MalformedAnswer
    message = first.message
    text, calls, reasoning = message.content or message.refusal or "", _tool_calls(message), _reasoning(message)
    for choice in answer.choices[1:]:
        text += choice.message.content or choice.message.refusal or ""
        calls += _tool_calls(choice.message)
        reasoning += _reasoning(choice.message)
    refusal = (message.refusal or None) if len(answer.choices) == 1 else None
    return Completion(text, first.finish_reason or "stop", read_usage(answer.usage), calls, refusal, reasoning or None)


def _reasoning(message: _Message) -> str:
    """The reasoning text, under either of its two names. Under `reasoning`, some servers send other types."""
    if message.reasoning_content:
        return message.reasoning_content
    return message.reasoning if isinstance(message.reasoning, str) else ""


def _tool_calls(message: _Message) -> tuple[ToolCall, ...]:
    if not message.tool_calls and message.function_call is None:
        return ()
    calls = [read for call in message.tool_calls or () if (read := _read_tool_call(call)) is not None]
    legacy = message.function_call
    if legacy is not None and (legacy.name or legacy.arguments):
        calls.append(ToolCall("", legacy.name or "", legacy.arguments or ""))
    return tuple(calls)


def _read_tool_call(call: _ToolCall) -> ToolCall | None:
    if (custom := call.custom) is not None:
        return ToolCall(call.id or "", custom.name or "", custom.input or "", custom=True)
    if (function := call.function) is None:
        return None
    return ToolCall(call.id or "", function.name or "", function.arguments or "")


def _has_error(choice: _Choice) -> bool:
    return choice.error is not None or choice.finish_reason == "error"


def read_usage(reported: Any) -> Usage | None:
    """The reported usage; None if it is missing or malformed."""
    if not isinstance(reported, dict):
        return None
    input_details = _details(reported, "prompt_tokens_details")
    output_details = _details(reported, "completion_tokens_details")
    input_tokens = token_count(reported.get("prompt_tokens"))
    output_tokens = token_count(reported.get("completion_tokens"))
    cached = token_count(input_details.get("cached_tokens") or 0)
    if input_tokens is None or output_tokens is None or cached is None or cached > input_tokens:
        return None
    cache_write = token_count(input_details.get("cache_write_tokens")) or 0
    reasoning = token_count(output_details.get("reasoning_tokens")) or 0
    if reasoning and reported.get("total_tokens") == input_tokens + output_tokens + reasoning:
        output_tokens += reasoning  # xAI does not include reasoning in `completion_tokens`, only in the total
    return Usage(input_tokens, output_tokens, cached, cache_write, reasoning)


def _details(reported: dict[str, Any], name: str) -> dict[str, Any]:
    details = reported.get(name)
    return details if isinstance(details, dict) else {}
