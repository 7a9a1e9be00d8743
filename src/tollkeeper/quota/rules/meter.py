"""Computes the input bound of a call, its cost (tokens by the model's weight, micro-USD by its price), and its hold.

A cost is rounded up once per call and unit.
"""

from typing import NamedTuple, assert_never

from tollkeeper.chat import Price, Usage
from tollkeeper.quota.rules.models import Unit

WEIGHT_ONE = 1_000
MILLION = 1_000_000
UNBOUNDED_OUTPUT = 10**12
TOKENS_PER_MESSAGE = 8


def input_bound(text_tokens: int, messages: int, overhead: int) -> int:
    """An upper bound of the input tokens. `text_tokens` is a tokenizer's count, or the bytes of the request.

    A token of byte-pair encoding covers at least one byte, so the bytes of the request bound the tokens of its text.
    Chat templates add tokens per message (3 to 4 in OpenAI's cookbook, "How to count tokens with tiktoken") and per
    call; `overhead` is the latter.
    """
    return text_tokens + TOKENS_PER_MESSAGE * messages + overhead


class Meter(NamedTuple):
    """Converts usage into cost. `weight_milli` is in thousandths: at 1,000, one token costs one token."""

    weight_milli: int = WEIGHT_ONE
    price: Price | None = None

    def tokens(self, usage: Usage) -> int:
        """The cost in tokens. Cached input counts in full."""
        return -(-(usage.input_tokens + usage.output_tokens) * self.weight_milli // WEIGHT_ONE)

    def micro_usd(self, usage: Usage) -> int | None:
        """The cost in micro-USD, or None for a model without a price."""
        if self.price is None:
            return None
        if not usage.cached_input_tokens and not usage.cache_write_tokens:
            return -(-(usage.input_tokens * self.price.input + usage.output_tokens * self.price.output) // MILLION)
        cached = min(usage.cached_input_tokens, usage.input_tokens)
        written = min(usage.cache_write_tokens, usage.input_tokens - cached)
        total = (
            (usage.input_tokens - cached - written) * self.price.input
            + cached * self.price.cached_input
            + written * self._cache_write
            + usage.output_tokens * self.price.output
        )
        return -(-total // MILLION)

    @property
    def _cache_write(self) -> int:
        if self.price is None:
            return 0
        return self.price.input if self.price.cache_write is None else self.price.cache_write

    def most_expensive_usage(self, input_tokens: int, output_tokens: int) -> Usage:
        """The most expensive usage with these token counts, which a hold must cover: input at its highest price."""
        if self.price is None or self.price.input >= max(self.price.cached_input, self._cache_write):
            return Usage(input_tokens, output_tokens)
        if self.price.cached_input > self._cache_write:
            return Usage(input_tokens, output_tokens, cached_input_tokens=input_tokens)
        return Usage(input_tokens, output_tokens, cache_write_tokens=input_tokens)

    def hold(self, unit: Unit, usage: Usage) -> int | None:
        """What a call holds in `unit` so that it can cost this usage; None for money if the model has no price."""
        if unit is Unit.TOKENS:
            return self.tokens(usage)
        if unit is Unit.MICRO_USD:
            return self.micro_usd(usage)
        if unit is Unit.REQUESTS or unit is Unit.CONCURRENCY:
            return 1
        assert_never(unit)

    def max_output(self, unit: Unit, input_tokens: int, room: int) -> int:
        """The most output tokens that fit `room` (in `unit`) beside the input, at the input's highest price.

        Negative if the input alone does not fit, or if the model has no price. UNBOUNDED_OUTPUT if output is free, as
        in a quota that counts calls.
        """
        if unit is Unit.TOKENS:
            if self.weight_milli == 0:
                return UNBOUNDED_OUTPUT if room >= 0 else -1
            return room * WEIGHT_ONE // self.weight_milli - input_tokens
        if unit is Unit.REQUESTS or unit is Unit.CONCURRENCY:
            return UNBOUNDED_OUTPUT if room >= 1 else -1
        if self.price is None:
            return -1
        left = room * MILLION - input_tokens * max(self.price.input, self.price.cached_input, self._cache_write)
        if self.price.output == 0:
            return UNBOUNDED_OUTPUT if left >= 0 else -1
        return left // self.price.output
