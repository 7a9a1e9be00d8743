"""How much of a conversation is stored: its newest rounds, as many as fit, each one whole.

A round is the messages of the user, one or more in a row, and the answers to them.
"""

from collections.abc import Sequence
from typing import Protocol

MESSAGE_OVERHEAD_TOKENS = 8
"""The most that a chat template adds to a message."""


class SizedMessage(Protocol):
    """What trimming needs of a message. `tokens` is an upper bound."""

    @property
    def role(self) -> str: ...

    @property
    def tokens(self) -> int: ...


def max_tokens_of(text: str) -> int:
    """Returns the most tokens that a message can have with any model: a byte-pair token covers at least one byte."""
    return len(text.encode()) + MESSAGE_OVERHEAD_TOKENS


def first_kept_index(messages: Sequence[SizedMessage], max_tokens: int) -> int:
    """Returns the index of the first message to keep, so that the rest has at most `max_tokens`.

    It is the first message of a round, or the number of messages if no round fits.
    """
    first_kept, tokens = len(messages), 0
    for index in range(len(messages) - 1, -1, -1):
        tokens += messages[index].tokens
        if tokens > max_tokens:
            break
        if _starts_round(messages, index):
            first_kept = index
    return first_kept


def _starts_round(messages: Sequence[SizedMessage], index: int) -> bool:
    return index == 0 or (messages[index].role == "user" and messages[index - 1].role != "user")
