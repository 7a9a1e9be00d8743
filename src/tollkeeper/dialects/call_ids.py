"""Makes the ids of tool calls valid for a provider: one mapping for the id of a call and for that of its result."""

import re
from collections import deque
from collections.abc import Callable
from hashlib import sha256

from tollkeeper.chat import Message, Part, ToolCall, ToolResult

MAX_LENGTH = 64
"""Of an id, in characters (OpenAI: `string_above_max_length`)."""
DIGEST_LENGTH = 12
OPAQUE_MARK = "__thought__"
"""LiteLLM writes this, and a signature that has to come back unchanged, into ids."""

_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OTHER_LETTERS = re.compile(r"[^A-Za-z0-9_-]")


def word_id(call_id: str) -> str:
    """The id itself if it is 1 to 64 letters, digits, `-` and `_`; else such an id, the same for the same input."""
    if _WORD.fullmatch(call_id):
        return call_id
    return _with_digest(_OTHER_LETTERS.sub("_", call_id), call_id)


def short_id(call_id: str) -> str:
    """The id itself if it has at most 64 characters; else such an id, the same for the same input."""
    if len(call_id) <= MAX_LENGTH or OPAQUE_MARK in call_id:
        return call_id
    return _with_digest(call_id, call_id)


def _with_digest(readable: str, call_id: str) -> str:
    digest = sha256(call_id.encode()).hexdigest()[:DIGEST_LENGTH]
    return f"{readable[: MAX_LENGTH - DIGEST_LENGTH - 1]}_{digest}"


def with_short_ids(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages with the `short_id` of each call and result."""
    if all(short_id(call_id) == call_id for message in messages for call_id in _ids(message)):
        return messages
    return tuple(_with_ids(message, short_id, short_id) for message in messages)


def with_unique_word_ids(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages with the `word_id` of each call and result, each call with one of its own.

    Servers that number the calls of each answer from 0 repeat their ids. A result belongs to the latest calls of its
    id; the results of several calls with one id come in their order.
    """
    ids = [call_id for message in messages for call_id in _ids(message, results=False)]
    if len(set(ids)) == len(ids) and all(map(_WORD.fullmatch, (one for message in messages for one in _ids(message)))):
        return messages
    return _UniqueIds().rewrite(messages)


class _UniqueIds:
    def __init__(self) -> None:
        self._used: set[str] = set()
        self._waiting: dict[str, deque[str]] = {}
        """By the id as sent by the caller: the new ids of the calls that wait for a result."""

    def rewrite(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(self._rewrite(message) for message in messages)

    def _rewrite(self, message: Message) -> Message:
        for call_id in _ids(message, results=False):
            self._waiting.pop(call_id, None)
        return _with_ids(message, self._call_id, self._result_id)

    def _call_id(self, call_id: str) -> str:
        new, number = word_id(call_id), 1
        while new in self._used:
            number += 1
            new = _with_digest(_OTHER_LETTERS.sub("_", call_id), f"{call_id} {number}")
        self._used.add(new)
        self._waiting.setdefault(call_id, deque()).append(new)
        return new

    def _result_id(self, call_id: str) -> str:
        waiting = self._waiting.get(call_id)
        if not waiting:
            return word_id(call_id)
        return waiting.popleft() if len(waiting) > 1 else waiting[0]


def _ids(message: Message, *, results: bool = True) -> list[str]:
    if isinstance(message.content, str):
        return []
    calls = [part.id for part in message.content if isinstance(part, ToolCall)]
    return calls + [part.call_id for part in message.content if results and isinstance(part, ToolResult)]


def _with_ids(message: Message, call_id: Callable[[str], str], result_id: Callable[[str], str]) -> Message:
    if not _ids(message):
        return message
    return message._replace(content=tuple(_with_id(part, call_id, result_id) for part in message.parts))


def _with_id(part: Part, call_id: Callable[[str], str], result_id: Callable[[str], str]) -> Part:
    match part:
        case ToolCall():
            return part._replace(id=call_id(part.id))
        case ToolResult():
            return part._replace(call_id=result_id(part.call_id))
        case _:
            return part
