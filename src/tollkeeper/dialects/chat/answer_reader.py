"""Reads whole answers."""

from typing import Any

import msgspec

from tollkeeper.chat import Completion, ToolCall, UsageReport
from tollkeeper.dialects.answer_checks import UNTYPED_FLOAT, raise_failure, raise_unreadable, token_count, usage_report
from tollkeeper.dialects.chat.content_lists import ContentTexts, read_content


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
    content: str | list[Any] | None = None
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


_decode = msgspec.json.Decoder(_Answer, float_hook=UNTYPED_FLOAT).decode


def read_answer(body: bytes) -> Completion:
    """Read a chat completion. The texts, tool calls and reasoning of several choices are joined into one answer.

    Raises MalformedAnswer if it is malformed, ProviderSentError if it is or contains an error.
    """
    try:
        answer = _decode(body)
        first = answer.choices[0]
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError, RecursionError):
        raise_unreadable(body, read_usage)
    usage = read_usage(answer.usage)
    message = first.message
    text, reasoning = _texts(message)
    calls = _tool_calls(message)
    for choice in answer.choices[1:]:
        more_text, more_reasoning = _texts(choice.message)
        text += more_text
        reasoning += more_reasoning
        calls += _tool_calls(choice.message)
    if answer.error is not None or any(map(_has_error, answer.choices)):
        raise_failure(usage, has_output=bool(text or reasoning or calls))
    refusal = (message.refusal or None) if len(answer.choices) == 1 else None
    return Completion(text, first.finish_reason or "stop", usage, calls, refusal, reasoning or None)


def _texts(message: _Message) -> ContentTexts:
    """The text, or else the refusal, and the reasoning, which has two names; some servers send it in the content.

    Under `reasoning`, some servers send other types than a text.
    """
    content = message.content
    text, reasoning = ContentTexts(content or "") if not isinstance(content, list) else read_content(content)
    if message.reasoning_content:
        reasoning += message.reasoning_content
    elif isinstance(message.reasoning, str):
        reasoning += message.reasoning
    return ContentTexts(text or message.refusal or "", reasoning)


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


def read_usage(reported: Any) -> UsageReport | None:
    """The reported usage; None if there is none, or no count in it is valid."""
    if not isinstance(reported, dict):
        return None
    input_details = _details(reported, "prompt_tokens_details")
    output_details = _details(reported, "completion_tokens_details")
    input_tokens = token_count(reported.get("prompt_tokens"))
    output_tokens = token_count(reported.get("completion_tokens"))
    cached = token_count(
        input_details.get("cached_tokens")
        or reported.get("cached_tokens")  # Moonshot
        or reported.get("prompt_cache_hit_tokens")  # DeepSeek
        or 0
    )
    cache_write = token_count(input_details.get("cache_write_tokens") or 0)
    reasoning = token_count(output_details.get("reasoning_tokens")) or 0
    return usage_report(input_tokens, output_tokens, reported.get("total_tokens"), cached, cache_write, reasoning)


def _details(reported: dict[str, Any], name: str) -> dict[str, Any]:
    details = reported.get(name)
    return details if isinstance(details, dict) else {}
