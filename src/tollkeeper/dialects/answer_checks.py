"""Checks of what a provider sent: the errors that the readers raise, and valid token counts."""

from typing import Any

MAX_TOKEN_COUNT = 2**53
"""A larger number in a usage report is not a token count."""


class MalformedAnswer(Exception):
    """The bytes are not an answer in this wire format."""


class TruncatedStream(Exception):
    """The stream ended before the answer was complete."""


class ProviderSentError(Exception):
    """The stream contained an error event. Its text is neither logged nor passed on."""


def token_count(value: Any) -> int | None:
    """The value, if it is a number of tokens; None if it cannot be one."""
    return value if type(value) is int and 0 <= value < MAX_TOKEN_COUNT else None
