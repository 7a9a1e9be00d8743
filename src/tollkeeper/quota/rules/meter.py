"""What a call can take and what it costs: a bound on its input, the weight for token quotas, the price for money.

Each cost is rounded up once, per call and unit.
"""

from typing import NamedTuple

from tollkeeper.chat import Price, Usage
from tollkeeper.quota.rules.models import Unit

WEIGHT_ONE = 1_000
MILLION = 1_000_000
TOKENS_PER_MESSAGE = 8


def input_bound(text_tokens: int, messages: int, overhead: int) -> int:
    """A sound upper bound of the input tokens. `text_tokens` is a tokenizer's count, or the bytes of the request.

    A token of byte-pair encoding covers at least one byte, so the bytes of the request bound the tokens of its text.
    Chat templates add a few tokens per message (3 to 4 by OpenAI's cookbook, "How to count tokens with tiktoken") and
    some per call, which is the `overhead`.
    """
    return text_tokens + TOKENS_PER_MESSAGE * messages + overhead


class Meter(NamedTuple):
    """Turns tokens into cost. `weight_milli` is in thousandths: 1,000 charges a token as one token."""

    weight_milli: int = WEIGHT_ONE
    price: Price | None = None

    def tokens(self, usage: Usage) -> int:
        """The cost in tokens. Cached input counts in full."""
        return -(-(usage.input_tokens + usage.output_tokens) * self.weight_milli // WEIGHT_ONE)

    def micro_usd(self, usage: Usage) -> int | None:
        """The cost in micro-USD, or None for a model without a price."""
        if self.price is None:
            return None
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

    def dearest(self, input_tokens: int, output_tokens: int) -> Usage:
        """The usage that costs most of all with so many tokens: what a hold must cover."""
        written = input_tokens if self.price is not None and self._cache_write > self.price.input else 0
        return Usage(input_tokens, output_tokens, 0, written)

    def cost(self, unit: Unit, usage: Usage) -> int | None:
        """The cost in `unit`; None where the model has no price."""
        return self.tokens(usage) if unit is Unit.TOKENS else self.micro_usd(usage)

    def max_output(self, unit: Unit, input_tokens: int, room: int) -> int:
        """The largest output that, with this input, costs at most `room`, the input at its dearest. Negative when the
        input alone does not fit.

        Only for a unit that has a price; free output is unbounded.
        """
        if unit is Unit.TOKENS:
            if self.weight_milli == 0:
                return MILLION * MILLION if room >= 0 else -1
            return room * WEIGHT_ONE // self.weight_milli - input_tokens
        if self.price is None:
            return -1
        left = room * MILLION - input_tokens * max(self.price.input, self._cache_write)
        if self.price.output == 0:
            return MILLION * MILLION if left >= 0 else -1
        return left // self.price.output
