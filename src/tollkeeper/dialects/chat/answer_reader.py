"""Reads whole answers."""

from typing import Any

import msgspec

from tollkeeper.chat import Completion, FinishReason, ToolCall, UsageReport
from tollkeeper.dialects.answer_checks import (
    UNTYPED_FLOAT,
    has_error,
    raise_failure,
    raise_unreadable,
)
from tollkeeper.dialects.answer_tool_calls import arguments_text, finish_reason_with, new_call_id
from tollkeeper.dialects.chat.content_lists import ContentTexts, read_content
from tollkeeper.dialects.lenient_decoding import DECODE_ERRORS, decode_leniently
from tollkeeper.dialects.signatures import seal
from tollkeeper.dialects.usage_counts import CHAT_NAMES, RESPONSES_NAMES, read_openai_usage


class _FunctionCall(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _CustomCall(msgspec.Struct):
    name: str | None = None
    input: Any = None


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _FunctionCall | None = None
    custom: _CustomCall | None = None
    extra_content: Any = None


class _Message(msgspec.Struct):
    content: Any = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _FunctionCall | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _Answer(msgspec.Struct):
    """The fields of a chat completion that metering and a Completion need."""

    choices: list[_Choice] | None = None
    usage: Any = None
    object: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer, float_hook=UNTYPED_FLOAT).decode


def read_answer(body: bytes, signer: str = "") -> Completion:
    """Read a chat completion. The texts, tool calls and reasoning of several choices are joined into one answer.

    What the model `signer` demands back with a tool call is sealed in the id of the call.

    An answer without messages is empty if it reports a usage. Raises MalformedAnswer if it is malformed,
    ProviderSentError if it is or contains an error.
    """
    try:
        answer = _decode(body)
    except DECODE_ERRORS:
        answer = decode_leniently(body, _Answer)
    usage = read_usage(answer.usage)
    choices = answer.choices or []
    is_empty = all(choice.message is None and choice.finish_reason is None and not choice.error for choice in choices)
    if (is_empty and usage is None) or answer.object == "error":
        raise_unreadable(body, read_usage)
    text, reasoning = "", ""
    calls: tuple[ToolCall, ...] = ()
    for choice in choices:
        message = choice.message or _Message()
        more_text, more_reasoning = _texts(message)
        text += more_text
        reasoning += more_reasoning
        calls += _tool_calls(message, signer)
    if has_error(answer.error, has_answer=bool(choices)) or any(map(_has_error, choices)):
        raise_failure(usage, has_output=bool(text or reasoning or calls))
    refusal = choices[0].message.refusal or None if len(choices) == 1 and choices[0].message is not None else None
    reason = finish_reason(choices[0].finish_reason if choices else None, called=bool(calls))
    return Completion(text, reason, usage, calls, refusal, reasoning or None)


def _texts(message: _Message) -> ContentTexts:
    """The text, or else the refusal, and the reasoning, which has two names; some servers send it in the content."""
    text, reasoning = read_content(message.content)
    reasoning += "".join(read_content(message.reasoning_content)) or "".join(read_content(message.reasoning))
    return ContentTexts(text or message.refusal or "", reasoning)


def _tool_calls(message: _Message, signer: str) -> tuple[ToolCall, ...]:
    if not message.tool_calls and message.function_call is None:
        return ()
    calls = [read for call in message.tool_calls or () if (read := _read_tool_call(call, signer)) is not None]
    legacy = message.function_call
    if legacy is not None and (legacy.name or legacy.arguments):
        calls.append(ToolCall(new_call_id(), legacy.name or "", arguments_text(legacy.arguments)))
    return tuple(calls)


def _read_tool_call(call: _ToolCall, signer: str) -> ToolCall | None:
    call_id = (call.id or new_call_id()) + sealed_extra(call.extra_content, signer)
    if (custom := call.custom) is not None:
        return ToolCall(call_id, custom.name or "", arguments_text(custom.input), custom=True)
    if (function := call.function) is None:
        return None
    return ToolCall(call_id, function.name or "", arguments_text(function.arguments))


def sealed_extra(extra_content: Any, signer: str) -> str:
    """The seal for the `extra_content` of a tool call, as Gemini sends it; empty without one, and without a signer."""
    if not signer or not isinstance(extra_content, dict) or not extra_content:
        return ""
    return seal(signer, "extra", msgspec.json.encode(extra_content).decode())


def finish_reason(reported: str | None, *, called: bool) -> FinishReason:
    """Our finish reason of an answer with that `finish_reason`; `called`: it contains tool calls."""
    return finish_reason_with(reported or "stop", called=called)


def _has_error(choice: _Choice) -> bool:
    return bool(choice.error) or choice.finish_reason == "error"


def read_usage(reported: Any) -> UsageReport | None:
    """The reported usage; None if there is none, or no count in it is valid."""
    return read_openai_usage(reported, CHAT_NAMES, RESPONSES_NAMES)
