"""Whole answers: read, and written."""

from typing import Any

import msgspec
import orjson

from tollkeeper.chat import Completion, FinishReason, ToolCall, Usage
from tollkeeper.dialects.reading import BadAnswer, count
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.responses import output

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter", "refusal": "content_filter"}
"""How this wire names the reasons for which an answer is not whole. A refusal in words is a whole one."""
REASONS = {"max_output_tokens": "length"}


class _Part(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    """An item of the output, of any kind; of kinds that we do not ask for, nothing but the kind is read."""

    type: str = ""
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class Details(msgspec.Struct):
    reason: str | None = None


class _Answer(msgspec.Struct):
    """What metering and our nouns need of a response."""

    output: list[_Item]
    status: str | None = None
    incomplete_details: Details | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def read_answer(body: bytes) -> Completion:
    """Raises BadAnswer for what is no response, and for one that failed or was not finished."""
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadAnswer from None
    if answer.status not in {None, "completed", "incomplete"} or answer.error is not None:
        raise BadAnswer
    said: dict[str, list[str]] = {"output_text": [], "refusal": [], "reasoning": []}
    calls: list[ToolCall] = []
    for item in answer.output:
        _read_item(item, said, calls)
    refusal = "".join(said["refusal"])
    reason = finish_reason(answer.status, answer.incomplete_details, calls=bool(calls), refused=bool(said["refusal"]))
    return Completion(
        text="".join(said["output_text"]) or refusal,
        finish_reason=reason,
        usage=read_usage(answer.usage),
        tool_calls=tuple(calls),
        refusal=refusal if said["refusal"] else None,
        reasoning="".join(said["reasoning"]) or None,
    )


def _read_item(item: _Item, said: dict[str, list[str]], calls: list[ToolCall]) -> None:
    match item.type:
        case "message":
            for part in item.content or []:
                text = part.refusal if part.type == "refusal" else part.text
                if part.type in said and text is not None:
                    said[part.type].append(text)
        case "reasoning":
            said["reasoning"] += [part.text for part in (item.summary or []) + (item.content or []) if part.text]
        case "function_call" | "custom_tool_call":
            arguments = item.arguments if item.type == "function_call" else item.input
            if item.call_id is None or item.name is None or arguments is None:
                raise BadAnswer
            calls.append(ToolCall(item.call_id, item.name, arguments, item.type == "custom_tool_call"))
        case _:
            pass


def finish_reason(status: str | None, details: Details | None, *, calls: bool, refused: bool) -> FinishReason:
    """Why an answer ended, in our nouns."""
    if status == "incomplete":
        reason = details.reason if details is not None else None
        return "length" if reason is None else REASONS.get(reason, reason)
    if calls:
        return "tool_calls"
    return "refusal" if refused else "stop"


def read_usage(reported: Any) -> Usage | None:
    """The usage as reported, or None when there is none or it cannot be true."""
    if not isinstance(reported, dict):
        return None
    sent, received = count(reported.get("input_tokens")), count(reported.get("output_tokens"))
    cached = _detail(reported, "input_tokens_details", "cached_tokens")
    written = _detail(reported, "input_tokens_details", "cache_write_tokens")
    thought = _detail(reported, "output_tokens_details", "reasoning_tokens")
    if sent is None or received is None or cached is None or written is None or thought is None:
        return None
    if cached + written > sent or thought > received:
        return None
    return Usage(sent, received, cached, written, thought)


def _detail(reported: dict[str, Any], group: str, name: str) -> int | None:
    """0 where it is not told."""
    details = reported.get(group)
    value = details.get(name) if isinstance(details, dict) else None
    return 0 if value is None else count(value)


def write_answer(completion: Completion, head: ResponseMeta, usage: Usage) -> bytes:
    """The response as OpenAI would say it."""
    reason = incomplete_reason(completion.finish_reason, refused=completion.refusal is not None)
    status = output.COMPLETED if reason is None else output.INCOMPLETE
    items: list[dict[str, Any]] = []
    if completion.reasoning:
        items.append(output.reasoning(output.new_id("rs", head, 0), completion.reasoning))
    parts = [output.text_part(completion.text)] if completion.text and completion.text != completion.refusal else []
    if completion.refusal is not None:
        parts.append(output.refusal_part(completion.refusal))
    if parts:
        items.append(output.message(output.new_id("msg", head, len(items)), parts, status))
    for call in completion.tool_calls:
        items.append(output.call(output.new_id(output.call_prefix(call), head, len(items)), call, status))
    return orjson.dumps(output.response(head, status, items, usage, reason))


def incomplete_reason(finish_reason: FinishReason, *, refused: bool) -> str | None:
    """None for an answer that is whole."""
    return None if finish_reason == "refusal" and refused else INCOMPLETE.get(finish_reason)
