"""What the readers of all wire formats share about tool calls in answers."""

import secrets
from typing import Any

import msgspec
import orjson

from tollkeeper.chat import FinishReason
from tollkeeper.dialects.answer_checks import MalformedAnswer

ENDED_EARLY = frozenset({"length", "content_filter", "refusal"})
"""The finish reasons that stand even if there are tool calls: the last of them may be incomplete."""

_REPORTED = {
    "stop": "stop end_turn stop_sequence stop_token pause_turn eos eos_token complete completed finish finished done",
    "length": "length max_tokens max_output_tokens max_new_tokens max_length model_length token_limit"
    " model_context_window_exceeded context_length_exceeded",
    "tool_calls": "tool_calls tool_call tool_use function_call function_calls",
    "content_filter": "content_filter content_filtered safety image_safety prohibited_content blocklist spii recitation"
    " guardrail_intervened sensitive",
    "refusal": "refusal",
}
FINISH_REASONS = {name: reason for reason, names in _REPORTED.items() for name in names.split()}
"""Our finish reason for each that the providers of all wire formats report, in lower case."""


def new_call_id() -> str:
    """An id for a tool call that came without one. No other call has it, in earlier turns as well."""
    return f"call_{secrets.token_hex(12)}"


def arguments_text(arguments: Any) -> str:
    """The arguments of a tool call as text. Some servers send the JSON value itself, and not the text of it."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else msgspec.json.encode(arguments).decode()


def raw_arguments_text(arguments: msgspec.Raw) -> str:
    """The arguments as the server wrote them; their text, where it wrote them as a string. Empty for null.

    Raises MalformedAnswer for arguments that are not valid UTF-8.
    """
    try:
        text = bytes(arguments).decode()
        if text.startswith('"'):
            return msgspec.json.decode(text, type=str)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise MalformedAnswer from error
    return "" if text == "null" else text


def is_whole_object(pieces: list[str]) -> bool:
    """Whether the pieces are a whole JSON object. The join is left out where the last piece cannot end one."""
    last = next(filter(str.strip, reversed(pieces)), "")
    if not last.rstrip().endswith("}"):
        return False
    try:
        orjson.loads("".join(pieces))
    except ValueError:
        return False
    return True


def known_reason(reported: str) -> FinishReason:
    """Our finish reason for the one that a provider reports, in any case. One that is not known is returned as it is.

    A writer of another wire format writes such a reason as `stop`.
    """
    return FINISH_REASONS.get(reported.lower(), reported)


def finish_reason_with(reason: FinishReason, *, called: bool) -> FinishReason:
    """The finish reason of an answer. Tool calls make it `tool_calls`, unless it ended early; without any it is not.

    `called`: the answer contains tool calls. Some servers finish them with `stop`: OpenAI does where the request
    named the tool.
    """
    reason = known_reason(reason)
    if called:
        return reason if reason in ENDED_EARLY else "tool_calls"
    return "stop" if reason == "tool_calls" else reason
