"""A streamed call, piece by piece from the provider to whoever listens; and what it cost, however it ended."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from tollkeeper.chat import Usage
from tollkeeper.errors import LeaseLost, ProviderError, ProviderInterrupted, ProviderTimeout
from tollkeeper.gateway.accumulator import StreamAccumulator
from tollkeeper.gateway.cancellation import CancelScope, StreamTimeouts
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.models import Basis

AFTER_THE_END_S = 5.0
"""How long the provider may take to close what it has ended."""
PROVIDER, LISTENER, LEASE = "provider", "listener", "lease"
"""Whom a relay waits for, or who ended it."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds: for the first piece, between two pieces, for all of them, and of silence until a ping."""

    first_s: float = 120.0
    idle_s: float = 30.0
    total_s: float = 600.0
    ping_s: float = 15.0


class Listener(Protocol):
    """Whoever the answer is for. Nothing it does may raise."""

    def attach(self, hang_up: "Cutting", reservation: Reservation) -> None:
        """The answer is about to come. To be called when the listener is gone: `hang_up()`."""
        ...

    async def deliver(self, piece: StreamChunk) -> None:
        """Hear this. Takes as long as the listener needs."""
        ...

    def ping(self) -> None:
        """Nothing has come for a while."""
        ...

    @property
    def left(self) -> bool:
        """Whether they are gone for good."""
        ...


class Cutting(Protocol):
    """What a listener calls when it is gone."""

    def __call__(self) -> None: ...


class Relay:
    """One attempt at one model. `tail` is how the provider ended the answer.

    `begun`: a piece has come; `shortened`: it was longer than allowed; `cut_short`: the listener was gone too early.
    """

    def __init__(self, reservation: Reservation, candidate: Candidate, listener: Listener, deadlines: Deadlines):
        self._reservation = reservation
        self._candidate = candidate
        self._provider = candidate.model.provider
        self._bills_unseen = candidate.call.bills_hidden_output
        self._listener = listener
        self._deadlines = deadlines
        self._counted = self._counted_deltas = 0
        self._most = 0
        self.received = StreamAccumulator()
        self.tail = b""
        self.begun = False
        self.shortened = False
        self.cut_short = False
        self._ended = False
        self._delivering: CancelScope | None = None

    async def run(self) -> None:
        """Relay all of it, and report to the reservation what it used. Raises ProviderError, LeaseLost."""
        self._most = self._allowed
        self._reservation.measure = self._measure
        try:
            await self._to_its_end()
        finally:
            self._reservation.measure = None  # they would hold each other, and the request, for longer than the call

    async def _to_its_end(self) -> None:
        try:
            reason = await self._until_cut(self._candidate.limit(self._reservation.granted_output))
        except (ProviderError, asyncio.CancelledError) as error:
            if self._ended and isinstance(error, ProviderError):  # the line broke, but all had been said
                await self._report(cut=self.cut_short)
                return
            await self._report_of_broken(error)
            if isinstance(error, ProviderError) and self.begun and not error.billed:
                raise ProviderInterrupted from error
            raise
        if reason == PROVIDER and not self._ended:
            late = ProviderInterrupted if self.begun else ProviderTimeout
            await self._report_of_broken(late())
            raise late
        await self._report(cut=self.cut_short or (reason is not None and not self._ended))
        if reason == LEASE:
            raise LeaseLost
        self.cut_short = self.cut_short or reason == LISTENER

    async def _until_cut(self, limit: int) -> str | None:
        """Returns who ended it; None: it came to its end."""
        deadlines = self._deadlines
        with CancelScope() as cut:
            self._reservation.on_lost = partial(cut, LEASE)
            with StreamTimeouts(
                lambda who: self._out_of_patience(who, cut, patience),
                self._listener.ping,
                first_s=deadlines.first_s,
                idle_s=deadlines.idle_s,
                total_s=deadlines.total_s,
                silent_s=deadlines.ping_s,
            ) as patience:
                patience.waiting_for = PROVIDER
                self._listener.attach(partial(self._hung_up, cut, patience), self._reservation)
                await self._pieces(limit, patience)
        self._reservation.on_lost = None
        return cut.reason

    async def _pieces(self, limit: int, patience: StreamTimeouts) -> None:
        received = self.received
        deliver = self._deliver_or_leave if self._bills_unseen else self._listener.deliver
        async with aclosing(self._provider.stream(self._candidate.call, limit)) as pieces:
            async for piece in pieces:
                self.begun = True
                received.add(piece.deltas)
                if piece.last:
                    self.tail += piece.raw
                    self._ended = received.finish_reason is not None
                    patience.at_most(AFTER_THE_END_S)
                    continue
                if not self.cut_short:
                    patience.moved(LISTENER)
                    await deliver(piece)
                patience.moved(PROVIDER, begun=bool(received.deltas))
                if received.size > self._most:
                    if await self._is_too_long():
                        received.finish_reason = "length"
                        self.shortened = True
                        self.tail = b""
                        received.usage = None
                        break
                    patience.moved(PROVIDER)

    async def _deliver_or_leave(self, piece: StreamChunk) -> None:
        """Until it is heard; or until nobody waits for that any more, though the provider is to be heard out."""
        with CancelScope() as self._delivering:
            await self._listener.deliver(piece)

    def _out_of_patience(self, who: str, cut: CancelScope, patience: StreamTimeouts) -> None:
        if who == LISTENER and self._bills_unseen and self._delivering is not None:
            patience.moved(PROVIDER)
            self._hung_up(cut, patience)
            self._delivering(LISTENER)
        else:
            cut(who)

    def _hung_up(self, cut: CancelScope, patience: StreamTimeouts) -> None:
        """The listener is gone: so is the provider, unless it can bill what it would not have said by then."""
        if cut.over:
            return
        if self._bills_unseen:
            self.cut_short = True
            patience.at_most(self._deadlines.idle_s)
        else:
            cut(LISTENER)

    async def _is_too_long(self) -> bool:
        """Whether the provider says more than it was allowed to. Counts only what was not counted before."""
        fresh = self.received.text_since(self._counted_deltas)
        self._counted_deltas = len(self.received.deltas)
        self._counted += await self._provider.count_output(fresh)
        self._most = self.received.size + max(self._allowed - self._counted, 64)
        return self._counted > self._allowed

    @property
    def _allowed(self) -> int:
        return self._candidate.allowed(self._reservation.granted_output)

    async def _report_of_broken(self, error: BaseException) -> None:
        """What a stream used that did not come to its end: the unknown rule for one that brought nothing."""
        billed = not isinstance(error, ProviderError) or error.billed
        cut = self.cut_short or isinstance(error, asyncio.CancelledError)
        if self.begun or (billed and cut):
            await self._report(cut=cut)
        elif billed:
            self._reservation.checkpoint = (await self._count_input(), 0)

    async def _report(self, *, cut: bool) -> None:
        usage = self.received.report
        if usage is not None and self._candidate.believes(usage):
            self._reservation.report(usage)
            return
        if cut and self._bills_unseen:
            terms = self._reservation.terms
            usage = Usage(terms.input_bound, self._reservation.granted_output)
        else:
            usage = Usage(*await self._measure())
        self._reservation.report(usage, Basis.COUNTED)

    async def _measure(self) -> tuple[int, int]:
        """Input, as told or counted, and what was received, counted."""
        told, text = self.received.input_tokens, self.received.text_since(0)
        if told is None or not self._candidate.believes(Usage(told, 0)):
            told = await self._count_input()
        return told, await self._provider.count_output(text) if text else 0

    async def _count_input(self) -> int:
        return await self._provider.count_input(self._candidate.call)
