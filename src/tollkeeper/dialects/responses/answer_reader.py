"""Reads whole answers."""

from typing import Any

import msgspec

from tollkeeper.chat import Completion, FinishReason, ToolCall, UsageReport
from tollkeeper.dialects.answer_checks import (
    UNTYPED_FLOAT,
    MalformedAnswer,
    raise_failure,
    raise_unreadable,
    token_count,
    usage_report,
)

FINISH_REASONS = {"max_output_tokens": "length"}
"""Our finish reason for each reason of an incomplete response that has another name here."""
FAILED_STATUSES = frozenset({"failed", "cancelled"})


class _Part(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    """An output item of any type. Of a type that is not known here, only the type is read."""

    type: str = ""
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class IncompleteDetails(msgspec.Struct):
    """Why a response is incomplete."""

    reason: str | None = None


class _Answer(msgspec.Struct):
    """The fields of a response that metering and a Completion need."""

    output: list[_Item]
    status: str | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer, float_hook=UNTYPED_FLOAT).decode


def read_answer(body: bytes) -> Completion:
    """Read a response. Raises MalformedAnswer if it is malformed or unfinished, ProviderSentError if it failed."""
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise_unreadable(body, read_usage)
    if answer.status in FAILED_STATUSES or answer.error is not None:
        raise_failure(read_usage(answer.usage), has_output=bool(answer.output))
    if answer.status not in {None, "completed", "incomplete"}:
        raise MalformedAnswer
    texts: dict[str, list[str]] = {"output_text": [], "refusal": [], "reasoning": []}
    calls: list[ToolCall] = []
    for item in answer.output:
        _read_item(item, texts, calls)
    refused = bool(texts["refusal"])
    refusal = "".join(texts["refusal"])
    return Completion(
        text="".join(texts["output_text"]) or refusal,
        finish_reason=finish_reason(answer.status, answer.incomplete_details, calls=bool(calls), refused=refused),
        usage=read_usage(answer.usage),
        tool_calls=tuple(calls),
        refusal=refusal if refused else None,
        reasoning="".join(texts["reasoning"]) or None,
    )


def _read_item(item: _Item, texts: dict[str, list[str]], calls: list[ToolCall]) -> None:
    """Add the item's texts to `texts`, by type, and its tool call to `calls`."""
    match item.type:
        case "message":
            for part in item.content or []:
                text = part.refusal if part.type == "refusal" else part.text
                if part.type in texts and text is not None:
                    texts[part.type].append(text)
        case "reasoning":
            texts["reasoning"] += [part.text for part in (item.summary or []) + (item.content or []) if part.text]
        case "function_call" | "custom_tool_call":
            arguments = item.arguments if item.type == "function_call" else item.input
            if item.call_id is None or item.name is None or arguments is None:
                raise MalformedAnswer
            calls.append(ToolCall(item.call_id, item.name, arguments, item.type == "custom_tool_call"))
        case _:
            pass


def finish_reason(status: str | None, details: IncompleteDetails | None, *, calls: bool, refused: bool) -> FinishReason:
    """Our finish reason of a response with that status; `calls`: it contains tool calls; `refused`: a refusal."""
    if status == "incomplete":
        reason = details.reason if details is not None else None
        return "length" if reason is None else FINISH_REASONS.get(reason, reason)
    if calls:
        return "tool_calls"
    return "refusal" if refused else "stop"


def read_usage(reported: Any) -> UsageReport | None:
    """The reported usage; None if there is none, or no count in it is valid."""
    if not isinstance(reported, dict):
        return None
    input_tokens, output_tokens = token_count(reported.get("input_tokens")), token_count(reported.get("output_tokens"))
    cached = _detail(reported, "input_tokens_details", "cached_tokens")
    cache_write = _detail(reported, "input_tokens_details", "cache_write_tokens")
    reasoning = _detail(reported, "output_tokens_details", "reasoning_tokens")
    return usage_report(input_tokens, output_tokens, reported.get("total_tokens"), cached, cache_write, reasoning or 0)


def _detail(reported: dict[str, Any], group: str, name: str) -> int | None:
    """A count of `group`: 0 if it is missing, None if it is malformed."""
    details = reported.get(group)
    value = details.get(name) if isinstance(details, dict) else None
    return 0 if value is None else token_count(value)
