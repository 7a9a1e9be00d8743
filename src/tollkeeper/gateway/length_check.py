"""Whether a streamed answer is longer than allowed.

A provider keeps to the limit that it was sent. So the check needs no vocabulary as long as there is no reason to doubt
that: ordinary text has words, and about as many tokens. Only a tokenizer decides that an answer is too long.
"""

from collections.abc import Callable

from tollkeeper.gateway.accumulator import StreamAccumulator
from tollkeeper.providers.base import Provider

BYTES_PER_TOKEN = 6
"""Text with more bytes than that per allowed token is counted with a tokenizer. English text has about four (OpenAI's
help centre, "What are tokens and how to count them?").
"""
BYTES_PER_WORD = 12
"""Text with more bytes than that per word is not ordinary: encoded data, for instance, or a language without spaces."""
MIN_UNCHECKED_BYTES = 64
"""How much more text is received, at the least, before it is checked again."""
MAX_SPLIT_CHARS = 64 * 1024
"""Longer text is not split into words: a tokenizer counts it, in a thread."""


class LengthCheck:
    """Checks the text of one stream. `allowed` returns how many tokens it may have."""

    def __init__(self, received: StreamAccumulator, provider: Provider, allowed: Callable[[], int]) -> None:
        self._received = received
        self._provider = provider
        self._allowed = allowed
        self._due_at_bytes = allowed()
        self._words = self._split_deltas = 0
        self._ends_in_word = False
        self._tokens = self._counted_deltas = 0

    @property
    def is_due(self) -> bool:
        """Whether the text has become so long that it must be checked."""
        return self._received.text_bytes > self._due_at_bytes

    async def is_too_long(self) -> bool:
        """Whether the text is longer than allowed. Looks only at what was received since the last check."""
        allowed, size = self._allowed(), self._received.text_bytes
        is_ordinary = self._count_words() and size <= BYTES_PER_WORD * self._words
        if is_ordinary and self._words <= allowed and size <= BYTES_PER_TOKEN * allowed:
            self._due_at_bytes = size + max(allowed - self._words, MIN_UNCHECKED_BYTES)
            return False
        text = self._received.text_since(self._counted_deltas)
        self._counted_deltas = len(self._received.deltas)
        self._tokens += await self._provider.count_output(text)
        self._due_at_bytes = size + max(allowed - self._tokens, MIN_UNCHECKED_BYTES)
        return self._tokens > allowed

    def _count_words(self) -> bool:
        """Count the words of the new text. Returns whether all of it was looked at."""
        text = self._received.text_since(self._split_deltas)
        self._split_deltas = len(self._received.deltas)
        if not text:
            return True
        words = len(text[:MAX_SPLIT_CHARS].split())
        if self._ends_in_word and not text[0].isspace():
            words -= 1
        self._words += words
        self._ends_in_word = not text[-1].isspace()
        return len(text) <= MAX_SPLIT_CHARS
