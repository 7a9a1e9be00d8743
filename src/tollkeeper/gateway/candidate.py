"""What a caller wants, and one model that may answer it: how large a hold to ask for, and how to ask the model."""

from dataclasses import dataclass

from tollkeeper.chat import Usage
from tollkeeper.errors import InvalidRequest
from tollkeeper.providers.base import CallInput, Model, PreparedCall
from tollkeeper.quota.rules.input_bound import input_bound
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Terms

MIN_THINKING_OUTPUT = 4_096
"""The least that is wanted of a model that thinks unseen, if its window has room: the limit is of thoughts, too."""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """What a caller wants. Without `max_output` the answer is as long as the house allows and the quota has room for.

    `allocation` caps what the call may cost, in weighted tokens. `without_output`: nothing is written, only read.
    """

    surface: str
    question: CallInput
    model: str | None = None
    max_output: int | None = None
    allocation: int | None = None
    without_output: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model that may answer. `default_output` is the output wanted when the caller does not say.

    The hold is sized first by the bytes, in full; then, refused, by a tokenizer's count where the model's vocabulary is
    known, as much as fits. A limit that the caller gave is never made smaller.
    """

    ask: ModelCall
    model: Model
    call: PreparedCall
    default_output: int

    def limit(self, granted_output: int) -> int:
        """What the provider is told: each of several choices may be so long."""
        return granted_output // self.ask.question.choices

    def allowed(self, granted_output: int) -> int:
        """What the provider may say by our count before it is cut: its tokens are not quite ours."""
        return granted_output * 9 // 8 + 16

    def believes(self, usage: Usage) -> bool:
        """Whether a report can be true."""
        return self.model.can_have_used(usage, self.ask.question.choices)

    async def first(self) -> Terms:
        """The cheap bound in full; a cap on the cost of the call needs the exact one at once."""
        if self.ask.allocation is not None:
            return await self.tighter()
        return self._terms(self._bound_by_bytes, self._wanted, self._wanted)

    async def tighter(self) -> Terms:
        """The exact count, in full if it fits. Raises InvalidRequest when the caller's own cap is too small."""
        counted = await self.model.provider.bound_input(self.call)
        bound = self._bound(counted) if counted is not None else self._bound_by_bytes
        given = self.ask.max_output is not None or self.ask.without_output
        least = self._wanted if given else min(self._wanted, self.model.least_output * self.ask.question.choices)
        wanted = self._wanted
        if self.ask.allocation is not None:
            wanted = min(wanted, self._meter.most_output(Unit.TOKENS, bound, self.ask.allocation))
        if wanted < least:
            raise InvalidRequest("context_allocation is too small for this prompt and its answer.")
        return self._terms(bound, wanted, least)

    @property
    def _wanted(self) -> int:
        if self.ask.without_output:
            return 0
        return (self.ask.max_output or self._usual) * self.ask.question.choices

    @property
    def _usual(self) -> int:
        if not self.call.bills_hidden_output:
            return self.default_output
        room = (self.model.context_window - self._bound_by_bytes) // self.ask.question.choices
        return max(self.default_output, min(MIN_THINKING_OUTPUT, room))

    @property
    def _meter(self) -> Meter:
        return Meter(self.model.weight_milli, self.model.price)

    @property
    def _bound_by_bytes(self) -> int:
        shape = self.call.shape
        return self._bound(max(0, len(self.call.body) - shape.image_bytes)) + shape.images * self.model.image_tokens

    def _bound(self, text_tokens: int) -> int:
        shape = self.call.shape
        overhead = self.model.overhead_with_tools if shape.tools else self.model.overhead
        return input_bound(text_tokens, shape.messages, overhead)

    def _terms(self, bound: int, wanted: int, least: int) -> Terms:
        return Terms(
            surface=self.ask.surface,
            provider=self.model.provider.name,
            model=self.model.name,
            meter=self._meter,
            input_bound=bound,
            wanted_output=wanted,
            least_output=least,
        )
