"""What tokens cost: by weight for token quotas, by price for money; one ceiling per call and unit."""

from typing import NamedTuple

from tollkeeper.chat import Price, Usage
from tollkeeper.quota.models import Unit

WEIGHT_ONE = 1_000
MILLION = 1_000_000


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
        total = (
            (usage.input_tokens - cached) * self.price.input
            + cached * self.price.cached_input
            + usage.output_tokens * self.price.output
        )
        return -(-total // MILLION)

    def cost(self, unit: Unit, usage: Usage) -> int | None:
        """The cost in `unit`; None where the model has no price."""
        return self.tokens(usage) if unit is Unit.TOKENS else self.micro_usd(usage)

    def most_output(self, unit: Unit, input_tokens: int, room: int) -> int:
        """The largest output that, with this input, costs at most `room`. Negative when the input alone does not fit.

        Only for a unit that has a price; free output is unbounded.
        """
        if unit is Unit.TOKENS:
            if self.weight_milli == 0:
                return MILLION * MILLION if room >= 0 else -1
            return room * WEIGHT_ONE // self.weight_milli - input_tokens
        if self.price is None:
            return -1
        left = room * MILLION - input_tokens * self.price.input
        if self.price.output == 0:
            return MILLION * MILLION if left >= 0 else -1
        return left // self.price.output
