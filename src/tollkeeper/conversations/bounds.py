"""How much of a conversation is kept: its newest exchanges, as many as fit, each one whole."""

from collections.abc import Sequence
from typing import Protocol

TOKENS_PER_TURN = 8
"""What a chat template adds to a turn, at most."""


class Sized(Protocol):
    """A turn, as far as its place and size go."""

    @property
    def role(self) -> str: ...

    @property
    def tokens(self) -> int: ...


def most_tokens_of(text: str) -> int:
    """The tokens that a turn can have at most with any model: a byte-pair token covers at least one byte."""
    return len(text.encode()) + TOKENS_PER_TURN


def first_kept(turns: Sequence[Sized], most_tokens: int) -> int:
    """The index of the first turn that is kept. What falls out falls out by whole exchanges, the oldest first.

    An exchange begins with a question: a turn of the user's that does not follow another one.
    """
    kept, tokens = len(turns), 0
    for index in range(len(turns) - 1, -1, -1):
        tokens += turns[index].tokens
        if tokens > most_tokens:
            break
        if _begins(turns, index):
            kept = index
    return kept


def _begins(turns: Sequence[Sized], index: int) -> bool:
    return index == 0 or (turns[index].role == "user" and turns[index - 1].role != "user")
