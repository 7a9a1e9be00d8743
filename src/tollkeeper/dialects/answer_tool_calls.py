"""What the readers of all wire formats share about tool calls in answers."""

import secrets
from typing import Any

import msgspec

from tollkeeper.chat import FinishReason
from tollkeeper.dialects.answer_checks import MalformedAnswer

ENDED_EARLY = frozenset({"length", "content_filter", "refusal"})
"""The finish reasons that stand even if there are tool calls: the last of them may be incomplete."""


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


def finish_reason_with(reason: FinishReason, *, called: bool) -> FinishReason:
    """The finish reason of an answer. Tool calls make it `tool_calls`, unless it ended early; without any it is not.

    `called`: the answer contains tool calls. Some servers finish them with `stop`: OpenAI does where the request
    named the tool.
    """
    if called:
        return reason if reason in ENDED_EARLY else "tool_calls"
    return "stop" if reason == "tool_calls" else reason
