"""THE PATH: every call to a model walks it, whatever door it came through.

limit → reserve (committed before the provider hears of it) → call → settle (on the one exit) → answer.
"""

from dataclasses import dataclass

from tollkeeper.chat import ChatRequest, Completion, Message, Usage
from tollkeeper.errors import InvalidRequest, ProviderError, TollkeeperError
from tollkeeper.principal import Principal
from tollkeeper.providers.base import PreparedCall
from tollkeeper.providers.catalog import Catalog, Model
from tollkeeper.quota.bounds import exact_input, input_bound
from tollkeeper.quota.ledger import Ledger, Reservation
from tollkeeper.quota.models import Basis, Unit
from tollkeeper.quota.operations import Closed, Terms
from tollkeeper.quota.prices import Meter
from tollkeeper.throttle import Throttle


@dataclass(frozen=True, slots=True)
class Ask:
    """What a caller wants. Without `max_output` the answer is as long as the house allows and the quota has room for.

    `allocation` caps what the call may cost, in weighted tokens.
    """

    surface: str
    messages: tuple[Message, ...]
    model: str | None = None
    max_output: int | None = None
    temperature: float | None = None
    allocation: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it."""

    charge: Closed
    model: str
    provider: str
    completion: Completion


class FailedCall(TollkeeperError):
    """A call that was reserved and then failed: what failed, and how its charge ended."""

    def __init__(self, cause: TollkeeperError, charge: Closed | None) -> None:
        super().__init__(cause.detail)
        self.cause = cause
        self.charge = charge


class Gateway:
    """Composed of what stands below it; `default_output` is the output wanted when the caller does not say."""

    def __init__(self, ledger: Ledger, catalog: Catalog, throttle: Throttle, *, default_output: int) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._throttle = throttle
        self._default_output = default_output

    @property
    def provider(self) -> str:
        """The name of who answers."""
        return self._catalog.provider.name

    async def complete(self, caller: Principal, ask: Ask) -> Answer:
        """One question, one whole answer, one charge.

        Raises RateLimited, NotFound (model), InvalidRequest, Unauthenticated, QuotaExceeded, QuotaHeld,
        LedgerUnavailable, FailedCall.
        """
        self._throttle.check(caller)
        model = self._catalog.model(ask.model)
        call = model.provider.prepare(ChatRequest(model.name, ask.messages, ask.temperature))
        sizing = Sizing(ask, model, call, ask.max_output or self._default_output)
        reservation = self._ledger.reservation(caller, await sizing.first(), sizing.tighter)
        try:
            async with reservation:
                completion = await _call(reservation, model, call)
        except ProviderError as error:
            raise FailedCall(error, reservation.closed) from error
        assert reservation.closed is not None
        return Answer(reservation.closed, model.name, model.provider.name, completion)


async def _call(reservation: Reservation, model: Model, call: PreparedCall) -> Completion:
    """Ask the provider, once, and report what it used; when its outcome is unknown, what is known of it."""
    provider = model.provider
    try:
        completion = await provider.complete(call, reservation.granted_output)
    except ProviderError as error:
        if error.billed:
            reservation.checkpoint = (await provider.count_input(call), 0)
        raise
    usage = completion.usage
    if usage is not None and model.can_have_used(usage):
        reservation.report(usage)
    else:
        usage = Usage(await provider.count_input(call), await provider.count_output(completion.text))
        reservation.report(usage, Basis.COUNTED)
    if usage.output_tokens > reservation.granted_output:
        return Completion(await provider.cut(completion.text, reservation.granted_output), "length", usage)
    return completion


@dataclass(frozen=True, slots=True)
class Sizing:
    """How large a hold to ask for: first by the bytes, in full; then, refused, by a tokenizer's count, as much as fits.

    A limit that the caller gave is never made smaller.
    """

    ask: Ask
    model: Model
    call: PreparedCall
    wanted: int

    async def first(self) -> Terms:
        """The cheap bound in full; a cap on the cost of the call needs the exact one at once."""
        if self.ask.allocation is not None:
            return await self.tighter()
        bound = input_bound(self.call.body_bytes, self.call.messages, self.model.overhead)
        return self._terms(bound, self.wanted, self.wanted)

    async def tighter(self) -> Terms:
        """The exact count, in full if it fits. Raises InvalidRequest when the caller's own cap is too small."""
        bound = exact_input(await self.model.provider.count_input(self.call), self.call.messages, self.model.overhead)
        wanted, least = self.wanted, min(self.wanted, self.model.least_output)
        if self.ask.allocation is not None:
            wanted = min(wanted, _meter_of(self.model).most_output(Unit.TOKENS, bound, self.ask.allocation))
        if wanted < (self.wanted if self.ask.max_output is not None else least):
            raise InvalidRequest("context_allocation is too small for this prompt and its answer.")
        return self._terms(bound, wanted, wanted if self.ask.max_output is not None else least)

    def _terms(self, bound: int, wanted: int, least: int) -> Terms:
        return Terms(
            surface=self.ask.surface,
            provider=self.model.provider.name,
            model=self.model.name,
            meter=_meter_of(self.model),
            input_bound=bound,
            wanted_output=wanted,
            least_output=least,
        )


def _meter_of(model: Model) -> Meter:
    return Meter(model.weight_milli, model.price)
