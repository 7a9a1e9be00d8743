"""Reading what strangers say: what every dialect needs for it."""

from typing import Any

MAX_TOKENS = 2**53
"""Larger numbers in a usage report are not counts."""


class BadAnswer(Exception):
    """What came is no answer of this wire."""


class Unfinished(Exception):
    """The stream ended in the middle of something."""


class ProviderSaidError(Exception):
    """The provider ended its stream with an error. What it said of it goes nowhere."""


def count(value: Any) -> int | None:
    """A number of tokens, or None for what cannot be one."""
    return value if type(value) is int and 0 <= value < MAX_TOKENS else None
