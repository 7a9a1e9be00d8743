"""THE PATH: every call to a model walks it, whatever door it came through.

reserve (committed before the provider hears of it) → call → settle (on the one exit) → answer. Whoever comes through a
door has been let in and counted there. A provider that fails before it says anything, and cannot have billed anything,
is tried again or followed by the model's fallbacks.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import NamedTuple, TypeVar

from tollkeeper.chat import Completion, Usage
from tollkeeper.errors import (
    InputError,
    LeaseLost,
    ModelNotFound,
    ProviderError,
    ProviderFailed,
    ProviderRejected,
    ProviderUnavailable,
    QuotaRefusal,
    TollkeeperError,
)
from tollkeeper.gateway.candidate import Candidate, ModelCall
from tollkeeper.gateway.streaming import Deadlines, Listener, Relay
from tollkeeper.principal import Principal
from tollkeeper.providers.base import Model
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import ClosedCharge, Replayed, Terms

RETRIES = 1
RETRY_PAUSE_S = 0.2

Result = TypeVar("Result")


@dataclass(frozen=True)
class CallResult:
    """What came of it.

    `tail` is how the provider ended a streamed answer. `shortened`: it was cut for being too long; `cut_short`: nobody
    listens any more.
    """

    charge: ClosedCharge
    model: str
    provider: str
    read: Callable[[], Completion]
    tail: bytes = b""
    shortened: bool = False
    cut_short: bool = False

    @cached_property
    def completion(self) -> Completion:
        """All of it. Of a stream it is put together when it is asked for."""
        return self.read()

    @property
    def usage(self) -> Usage:
        """As charged; and how much of the output was thinking, where the provider reported it."""
        told = self.completion.usage
        if told is None or self.charge.basis is not Basis.PROVIDER:
            return self.charge.usage
        return self.charge.usage._replace(reasoning_tokens=told.reasoning_tokens)


@dataclass(frozen=True, slots=True)
class IdempotentCall:
    """For a call that may come again: the key it comes with, and how its answer is put into bytes to be kept."""

    attempt: KeyedRequest
    render: Callable[[CallResult], StoredResponse | None]


class Estimate(NamedTuple):
    """What a call would ask of the ledger: at first, and if that is refused. `input_tokens` are as counted."""

    model: Model
    first: Terms
    tighter: Terms
    input_tokens: int


class CallFailed(TollkeeperError):
    """A call that was reserved and then failed: what failed, and how its charge ended."""

    def __init__(self, cause: TollkeeperError, charge: ClosedCharge | None) -> None:
        super().__init__(cause.detail)
        self.cause = cause
        self.charge = charge


class _Reserved:
    """The hold, for the length of a block; leaving settles, and a failure is told with the charge's end."""

    def __init__(self, reservation: Reservation) -> None:
        self._reservation = reservation

    def __aenter__(self) -> Awaitable[Reservation]:
        return self._reservation.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._reservation.__aexit__(kind, error, trace)
        if isinstance(error, ProviderError | LeaseLost):
            raise CallFailed(error, self._reservation.closed) from error


class Gateway:
    """Composed of what stands below it; `default_output` is the output wanted when the caller does not say."""

    def __init__(self, ledger: Ledger, catalog: Catalog, deadlines: Deadlines, *, default_output: int) -> None:
        self._ledger = ledger
        self._deadlines = deadlines
        self._default_output = default_output
        self.catalog = catalog

    async def complete(
        self, caller: Principal, ask: ModelCall, keeping: IdempotentCall | None = None
    ) -> CallResult | Replayed:
        """One question, one whole answer, one charge.

        Raises ModelNotFound, InputError, Unauthenticated, QuotaExceeded, QuotaHeld, LedgerUnavailable,
        IdempotencyInFlight, IdempotencyMismatch, PreviousAttemptInterrupted, CallFailed.
        """
        candidate = self._candidate(ask, ask.model, stream=False)
        async with await self._reserved(caller, candidate, keeping) as reservation:
            if reservation.replayed is not None:
                return reservation.replayed
            candidate, completion = await self._ask(reservation, candidate, _complete)
            answered = _answers(candidate, lambda: completion)
            if keeping is not None:
                reservation.keep(lambda closed: keeping.render(answered(closed)))
        return answered(_closed(reservation))

    async def stream(
        self, caller: Principal, ask: ModelCall, listener: Listener, keeping: IdempotentCall | None = None
    ) -> CallResult | Replayed:
        """The same, heard piece by piece; settled before the last piece, which is the answer's `tail`.

        Raises as `complete` does; CallFailed also when it broke after something was heard.
        """
        candidate = self._candidate(ask, ask.model, stream=True)
        async with await self._reserved(caller, candidate, keeping) as reservation:
            if reservation.replayed is not None:
                return reservation.replayed

            async def relay(reservation: Reservation, candidate: Candidate) -> Relay:
                relay = Relay(reservation, candidate, listener, self._deadlines)
                await relay.run()
                return relay

            candidate, relayed = await self._ask(reservation, candidate, relay, listener)
            answered = _answers(candidate, relayed.received.completion, relayed)
            if keeping is not None and not relayed.cut_short:
                reservation.keep(lambda closed: keeping.render(answered(closed)))
        return answered(_closed(reservation))

    async def estimate(self, ask: ModelCall) -> Estimate:
        """What a call would hold, without making it. Raises NotFound (model), InputError."""
        candidate = self._candidate(ask, ask.model, stream=False)
        counted = await candidate.model.provider.count_input(candidate.call)
        return Estimate(candidate.model, await candidate.first(), await candidate.tighter(), counted)

    async def count(self, ask: ModelCall) -> int:
        """The input's tokens, by the best tokenizer at hand. Nobody is asked, and nothing is charged."""
        candidate = self._candidate(ask, ask.model, stream=False)
        return await candidate.model.provider.count_input(candidate.call)

    def _candidate(self, ask: ModelCall, name: str | None, *, stream: bool) -> Candidate:
        model = self.catalog.model(name)
        call = model.provider.prepare(model, ask.question, stream=stream)
        return Candidate(ask, model, call, self._default_output)

    async def _reserved(self, caller: Principal, candidate: Candidate, keeping: IdempotentCall | None) -> "_Reserved":
        attempt = keeping.attempt if keeping is not None else None
        return _Reserved(self._ledger.reservation(caller, await candidate.first(), candidate.tighter, attempt))

    async def _ask(
        self,
        reservation: Reservation,
        candidate: Candidate,
        ask: Callable[[Reservation, Candidate], Awaitable[Result]],
        listener: Listener | None = None,
    ) -> tuple[Candidate, Result]:
        """Call the model, again if that is safe, then each of its fallbacks; each fallback is a charge of its own."""
        following = list(candidate.model.fallbacks)
        retries = RETRIES
        while True:
            try:
                return candidate, await ask(reservation, candidate)
            except ProviderError as error:
                if error.billed or isinstance(error, ProviderRejected):
                    raise
                if retries and isinstance(error, ProviderUnavailable | ProviderFailed) and error.retry_after_s is None:
                    retries -= 1
                    await asyncio.sleep(RETRY_PAUSE_S * (1 + random.random()))
                else:
                    follower = await self._follow(
                        reservation, candidate.ask, following, error.code, stream=listener is not None
                    )
                    if follower is None:
                        raise
                    candidate, retries = follower, RETRIES
                if listener is not None and listener.left:
                    raise

    async def _follow(
        self, reservation: Reservation, ask: ModelCall, following: list[str], error_code: str, *, stream: bool
    ) -> Candidate | None:
        """The next fallback that can be asked, its hold reserved."""
        while following:
            try:
                candidate = self._candidate(ask, following.pop(0), stream=stream)
            except (InputError, ModelNotFound):
                continue
            try:
                try:
                    await reservation.extend(await candidate.first(), error_code)
                except QuotaRefusal:
                    await reservation.extend(await candidate.tighter(), error_code)
            except TollkeeperError:
                return None
            return candidate
        return None


async def _complete(reservation: Reservation, candidate: Candidate) -> Completion:
    """Call the provider, once, and report what it used; when its outcome is unknown, what is known of it."""
    call, model = candidate.call, candidate.model
    provider = model.provider

    async def measure() -> tuple[int, int]:
        return await provider.count_input(call), 0

    reservation.measure = measure
    try:
        completion = await provider.complete(call, candidate.limit(reservation.granted_output))
    except ProviderError as error:
        if error.billed:
            reservation.checkpoint = await measure()
        raise
    granted = reservation.granted_output
    usage = completion.usage
    if usage is not None and candidate.believes(usage):
        reservation.report(usage)
    else:
        said = [completion.text, completion.reasoning or ""]
        if completion.refusal is not None and completion.refusal != completion.text:
            said.append(completion.refusal)
        said += [part for one in completion.tool_calls for part in (one.name, one.arguments)]
        usage = Usage(await provider.count_input(call), await provider.count_output("".join(said)))
        reservation.report(usage, Basis.COUNTED)
        granted = candidate.allowed(granted)
    if usage.output_tokens > granted and not candidate.ask.without_output:
        text = await provider.cut(completion.text, reservation.granted_output)
        refusal = text if completion.refusal == completion.text else completion.refusal
        return completion._replace(text=text, refusal=refusal, finish_reason="length", raw=None)
    return completion


def _answers(
    candidate: Candidate, read: Callable[[], Completion], relay: Relay | None = None
) -> Callable[[ClosedCharge], CallResult]:
    """The answer, but for how its charge ended."""

    def answered(closed: ClosedCharge) -> CallResult:
        return CallResult(
            closed,
            candidate.model.name,
            candidate.model.provider.name,
            read,
            tail=relay.tail if relay is not None else b"",
            shortened=relay is not None and relay.shortened,
            cut_short=relay is not None and relay.cut_short,
        )

    return answered


def _closed(reservation: Reservation) -> ClosedCharge:
    assert reservation.closed is not None
    return reservation.closed
