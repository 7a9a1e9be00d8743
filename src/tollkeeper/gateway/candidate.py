"""What a caller wants, and one model that may answer it: how much quota to hold, and what to send to the provider."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tollkeeper.errors import InvalidRequest
from tollkeeper.gateway.call_guard import CallGuard
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput, Model, PreparedCall
from tollkeeper.quota.rules.meter import Meter, input_bound
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Terms
from tollkeeper.retrieval.search import Passage

MIN_THINKING_OUTPUT = 4_096
"""The least output limit, in tokens, of a model that bills hidden thinking, if its window has room for it.

The limit applies to the thinking, too.
"""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """What a caller wants of a model. Without `max_output`, the default and the quota limit the answer.

    `allocation` caps the cost of the call, in tokens after the model's weight. `without_output`: the model only reads.
    `cache` is whether it may be answered from the cache; None leaves that to the caller's tenant.
    """

    surface: str
    input: CallInput
    model: str | None = None
    max_output: int | None = None
    allocation: int | None = None
    without_output: bool = False
    cache: bool | None = None
    evaluate: bool = False
    """Whether the tenant's judge rates the answer. Such a call is always made."""
    serves: str | None = None
    """The surface of the call that this one is made for: that surface's rules of moderation apply to this one, too."""
    guard: CallGuard | None = None
    """What moderates the call; None if its tenant has no rules for this surface."""
    passages: Sequence[Passage] | None = None
    """What the input has of documents; None for a call without retrieval."""
    conversation: str | None = None
    """The name of the conversation that it continues, among the caller's."""
    usual_output: int = 0
    """The output limit, in tokens, that clients of this surface expect if they send none; less if there is no room."""

    def made_by(self, caller: Principal) -> Principal:
        """The caller, in the conversation that the call continues."""
        return caller if self.conversation is None else replace(caller, conversation=self.conversation)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A call, prepared for one model that may answer it. `default_output` is the output limit of a call without one.

    The hold is first sized by the bytes of the input. If a quota refuses that, it is sized by a tokenizer's count where
    the model's vocabulary is known, with as much output as fits. A limit that the caller gave is never made smaller.
    """

    call: ModelCall
    model: Model
    prepared: PreparedCall
    default_output: int

    def output_limit(self, granted_output: int) -> int:
        """The output limit, in tokens, to send to the provider. It applies to each of several choices."""
        return granted_output // self.call.input.choices

    def allowed_output(self, granted_output: int) -> int:
        """How many tokens the provider may send, by our count, before it is cut: its tokenizer is not quite ours."""
        return granted_output * 9 // 8 + 16

    @property
    def max_output(self) -> int:
        """The most output tokens that the model can send: each of several choices as much as its context window."""
        return self.model.context_window * self.call.input.choices

    @property
    def has_input(self) -> bool:
        """Whether the input has any text or picture. Decodes the request."""
        return self.prepared.input_size.images > 0 or any(self.prepared.texts())

    async def byte_terms(self) -> Terms:
        """The bound by bytes, with all the wanted output. A call with an allocation has its exact terms at once."""
        if self.call.allocation is not None:
            return await self.exact_terms()
        return self._terms(self._bound_by_bytes, self._wanted_output, self._wanted_output)

    async def exact_terms(self) -> Terms:
        """The exact count, with as much of the wanted output as fits.

        Raises InvalidRequest when the allocation is too small.
        """
        counted = await self.model.provider.bound_input(self.prepared)
        is_counted = counted is not None and not self.prepared.input_size.unbounded
        bound = self._bound(counted) if counted is not None and is_counted else self._bound_by_bytes
        wanted = self._wanted_output
        is_fixed = self.call.max_output is not None or self.call.without_output
        least = wanted if is_fixed else min(wanted, self.model.least_output * self.call.input.choices)
        if self.call.allocation is not None:
            wanted = min(wanted, self._meter.max_output(Unit.TOKENS, bound, self.call.allocation))
        if wanted < least:
            raise InvalidRequest("context_allocation is too small for this prompt and its answer.")
        return self._terms(bound, wanted, least)

    @property
    def free_terms(self) -> Terms:
        """The terms of a call that is answered without the provider: the price, and no bounds."""
        return self._terms(0, 0, 0)

    @property
    def _wanted_output(self) -> int:
        if self.call.without_output:
            return 0
        return (self.call.max_output or self._output_by_default) * self.call.input.choices

    @property
    def _output_by_default(self) -> int:
        usual = max(self.call.usual_output, MIN_THINKING_OUTPUT if self.prepared.bills_hidden_output else 0)
        if usual <= self.default_output:
            return self.default_output
        room = (self.model.context_window - self._bound_by_bytes) // self.call.input.choices
        return max(self.default_output, min(usual, room))

    @property
    def _meter(self) -> Meter:
        price = self.model.price
        if price is not None and self.prepared.input_size.hour_cache:
            price = price.with_hour_cache()
        return Meter(self.model.weight_milli, price)

    @property
    def _bound_by_bytes(self) -> int:
        size = self.prepared.input_size
        if size.unbounded:
            return self.model.context_window
        text_bytes = max(0, len(self.prepared.body) - size.image_bytes) + size.repeated_bytes
        return self._bound(text_bytes) + size.images * self.model.image_tokens

    def _bound(self, text_tokens: int) -> int:
        size = self.prepared.input_size
        overhead = self.model.overhead_with_tools if size.tools else self.model.overhead
        return input_bound(text_tokens, size.messages, overhead)

    def _terms(self, bound: int, wanted_output: int, least_output: int) -> Terms:
        return Terms(
            surface=self.call.surface,
            provider=self.model.provider.name,
            model=self.model.name,
            meter=self._meter,
            input_bound=bound,
            wanted_output=wanted_output,
            least_output=least_output,
        )


class InputCount:
    """The tokens of a call's input, by the best tokenizer at hand. Counted when first needed, and only once."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._tokens: int | None = None

    async def tokens(self) -> int:
        """Returns the count. Does not block the event loop."""
        if self._tokens is None:
            self._tokens = await self._candidate.model.provider.count_input(self._candidate.prepared)
        return self._tokens
