"""A streamed call: chunks go from the provider to the listener, and the usage is known however the stream ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from tollkeeper.chat import UsageReport
from tollkeeper.errors import (
    LeaseLost,
    ProviderError,
    ProviderFailed,
    ProviderInterrupted,
    ProviderRejected,
    ProviderTimeout,
)
from tollkeeper.gateway.accumulator import StreamAccumulator
from tollkeeper.gateway.cancellation import CancelScope, StreamTimeouts
from tollkeeper.gateway.candidate import Candidate, InputCount
from tollkeeper.gateway.length_check import LengthCheck
from tollkeeper.gateway.listener import Listener
from tollkeeper.gateway.results import Outcome
from tollkeeper.gateway.usage_reports import set_usage
from tollkeeper.providers.base import SIGN_OF_LIFE, BilledFailure, StreamChunk
from tollkeeper.quota.reservation import Reservation

PLACEHOLDER_OUTPUT = 1
"""The output, in tokens, that some providers report at the start of a stream, before there is any."""
CLOSE_S = 5.0
"""How long the provider may take to close a stream after its last chunk."""
EVENTS_PER_TURN = 64
"""How many events are relayed before other tasks have their turn, where the provider has sent many at once."""
MAX_TAIL_BYTES = 64 * 1024
"""What a provider sends after so much of an end is not passed on."""
MAX_HELD_BACK_BYTES = 1024 * 1024
MAX_HELD_BACK_CHUNKS = 64
"""How much of a stream is held back until its first output. A provider may send signs of life for minutes."""
PROVIDER, LISTENER, LEASE = "provider", "listener", "lease"
"""Which side a relay waits for, or which side ended it."""

Deliver = Callable[[StreamChunk], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds: until the first chunk, between two chunks, for the whole stream, and between two pings in silence."""

    first_s: float = 120.0
    idle_s: float = 30.0
    total_s: float = 600.0
    ping_s: float = 15.0


async def relay_stream(
    reservation: Reservation, candidate: Candidate, *, listener: Listener, deadlines: Deadlines
) -> Outcome:
    """Relay one attempt at one model, and report to the reservation what it used. Raises ProviderError, LeaseLost."""
    relay = Relay(reservation, candidate, listener, deadlines)
    await relay.run()
    received = relay.received
    return Outcome(candidate, received.completion, relay.tail, relay.shortened, relay.cut_short, relay.first_output_at)


class Relay:
    """One attempt at one model. `tail` is how the provider ended the answer.

    Chunks before the first output are held back, so that another attempt can follow a failure before any output.
    `begun`: a chunk was received; `is_binding`: there was output, or the client has received something; `shortened`:
    the answer was longer than allowed; `cut_short`: the client disconnected before the end; `first_output_at` is the
    time of the first output, by `time.perf_counter`.
    """

    def __init__(self, reservation: Reservation, candidate: Candidate, listener: Listener, deadlines: Deadlines):
        self._reservation = reservation
        self._candidate = candidate
        self._provider = candidate.model.provider
        self._input_count = InputCount(candidate)
        self._bills_hidden_output = candidate.prepared.bills_hidden_output
        self._listener = listener
        self._deadlines = deadlines
        self.received = StreamAccumulator(candidate.model.context_window, candidate.max_output)
        self._tail = bytearray()
        self.begun = self.is_binding = False
        self.first_output_at: float | None = None
        self._held_back: list[StreamChunk] = []
        self._held_back_bytes = 0
        self.shortened = self.cut_short = self._ended = False
        self._delivery: CancelScope | None = None

    @property
    def tail(self) -> bytes:
        return bytes(self._tail)

    async def run(self) -> None:
        """Relay the stream to its end. Raises ProviderError, LeaseLost."""
        self._reservation.measure = self._measure
        try:
            await self._run()
        finally:
            self._reservation.measure = None  # else relay and reservation keep each other, and the request, in memory

    async def _run(self) -> None:
        try:
            ended_by = await self._relay(self._candidate.output_limit(self._reservation.granted_output))
        except (ProviderError, asyncio.CancelledError) as error:
            if self._ended and isinstance(error, ProviderError):  # the connection broke after the whole answer
                await self._report(cut=self.cut_short)
                return
            if isinstance(error, ProviderFailed) and (failure := self._billed_before(error)) is not None:
                await self._report_broken(failure)
                raise failure from error
            await self._report_broken(error)
            if isinstance(error, ProviderError) and self.is_binding and not error.billed:
                raise ProviderInterrupted from error
            raise
        if ended_by == PROVIDER and not self._ended:
            late = ProviderInterrupted if self.begun else ProviderTimeout
            await self._report_broken(late())
            raise late
        await self._report(cut=self.cut_short or (ended_by is not None and not self._ended))
        if ended_by == LEASE:
            raise LeaseLost
        self.cut_short = self.cut_short or ended_by == LISTENER

    async def _relay(self, output_limit: int) -> str | None:
        """Returns which side ended the stream before its end; None when it came to its end."""
        deadlines = self._deadlines
        with CancelScope() as scope:
            self._reservation.on_lost = partial(scope.cancel, LEASE)
            with StreamTimeouts(
                lambda waiting_for: self._timed_out(waiting_for, scope, timeouts),
                self._listener.ping,
                first_s=deadlines.first_s,
                idle_s=deadlines.idle_s,
                total_s=deadlines.total_s,
                ping_s=deadlines.ping_s,
            ) as timeouts:
                timeouts.waiting_for = PROVIDER
                self._listener.attach(partial(self._disconnected, scope, timeouts), self._reservation)
                await self._relay_chunks(output_limit, timeouts)
        self._reservation.on_lost = None
        return scope.reason

    async def _relay_chunks(self, output_limit: int, timeouts: StreamTimeouts) -> None:
        received = self.received
        length_check = LengthCheck(received, self._provider, lambda: self._allowed_output)
        deliver = self._deliver_or_leave if self._bills_hidden_output else self._listener.deliver
        async with aclosing(self._provider.stream(self._candidate.prepared, output_limit)) as chunks:
            number = 0
            async for chunk in chunks:
                number += EVENTS_PER_TURN if chunk is SIGN_OF_LIFE else chunk.events
                if number >= EVENTS_PER_TURN:
                    number = 0
                    await asyncio.sleep(0)
                if chunk is SIGN_OF_LIFE:
                    timeouts.progress(PROVIDER, begun=received.has_begun, delivered=False)
                    continue
                self.begun = True
                received.add(chunk.deltas)
                if chunk.last:
                    timeouts.end_within(CLOSE_S)
                    if await self._end(chunk, deliver, timeouts):
                        break
                    continue
                is_empty = not chunk.raw and not chunk.deltas
                delivered = not is_empty and (self.is_binding or not self._hold_back(chunk))
                if delivered:
                    if self._held_back:
                        await self._deliver_held_back(deliver, timeouts)
                    if not self.cut_short:
                        timeouts.progress(LISTENER)
                        await deliver(chunk)
                timeouts.progress(PROVIDER, begun=received.has_begun, delivered=delivered)
                if length_check.is_due:
                    timeouts.pause()
                    is_too_long = await length_check.is_too_long()
                    timeouts.progress(PROVIDER, delivered=False)
                    if is_too_long:
                        received.cut()
                        self.shortened = True
                        self._tail.clear()
                        break
            if self._held_back:
                await self._deliver_held_back(deliver, timeouts)

    async def _end(self, chunk: StreamChunk, deliver: Deliver, timeouts: StreamTimeouts) -> bool:
        """Take a chunk of the end. Returns whether it ended an answer for which the provider gave no reason."""
        if len(self._tail) < MAX_TAIL_BYTES:
            self._tail += chunk.raw
        implied = self.received.end()
        self._ended = self.received.finish_reason is not None
        if self._ended and self._held_back:
            await self._deliver_held_back(deliver, timeouts)
        return implied

    def _hold_back(self, chunk: StreamChunk) -> bool:
        """Hold a chunk back if there was no output yet; False if it is to be delivered."""
        received = self.received
        if not received.has_begun:
            self._held_back_bytes += len(chunk.raw)
            if len(self._held_back) < MAX_HELD_BACK_CHUNKS and self._held_back_bytes <= MAX_HELD_BACK_BYTES:
                self._held_back.append(chunk)
                return True
        self._bind()
        return False

    def _bind(self) -> None:
        if self.first_output_at is None and self.received.has_begun:
            self.first_output_at = time.perf_counter()
        self.is_binding = True

    async def _deliver_held_back(self, deliver: Deliver, timeouts: StreamTimeouts) -> None:
        self._bind()
        held_back, self._held_back = self._held_back, []
        for chunk in held_back:
            if not self.cut_short:
                timeouts.progress(LISTENER)
                await deliver(chunk)

    async def _deliver_or_leave(self, chunk: StreamChunk) -> None:
        """Deliver a chunk; or stop waiting for a client that does not take it, and read the provider to its end."""
        with CancelScope() as self._delivery:
            await self._listener.deliver(chunk)

    def _timed_out(self, waiting_for: str, scope: CancelScope, timeouts: StreamTimeouts) -> None:
        if waiting_for == LISTENER and self._bills_hidden_output and self._delivery is not None:
            timeouts.progress(PROVIDER)
            self._disconnected(scope, timeouts)
            self._delivery.cancel(LISTENER)
        else:
            scope.cancel(waiting_for)

    def _disconnected(self, scope: CancelScope, timeouts: StreamTimeouts) -> None:
        """The client has disconnected. The provider is cut off too, unless it can bill output that it has not sent."""
        if scope.left:
            return
        if self._bills_hidden_output:
            self.cut_short = True
            timeouts.end_within(self._deadlines.idle_s)
        else:
            scope.cancel(LISTENER)

    @property
    def _allowed_output(self) -> int:
        return self._candidate.allowed_output(self._reservation.granted_output)

    async def _report_broken(self, error: BaseException) -> None:
        """Report what a broken stream used. Without a chunk, the rule for unknown outcomes applies.

        A provider that fails before any output, and reports no usage with the failure, has billed nothing.
        """
        billed = not isinstance(error, ProviderError) or error.billed
        cut = self.cut_short or isinstance(error, asyncio.CancelledError)
        if isinstance(error, BilledFailure):
            self.received.add((error.usage,))
            await self._set_usage(self.received.usage, covered=self.received.is_reported, cut=cut)
        elif self.is_binding or (billed and (self.begun or cut)):
            covered = isinstance(error, ProviderFailed | ProviderRejected) and self.received.is_reported
            await self._set_usage(self.received.usage, covered=covered, cut=cut)
        elif billed:
            self._reservation.checkpoint = (await self._input_count.tokens(), 0)

    def _billed_before(self, error: ProviderFailed) -> BilledFailure | None:
        """The failure, if an earlier event has reported output, though none was sent: thoughts, for instance."""
        usage = self.received.usage
        if error.billed or self.is_binding or usage is None or (usage.output_tokens or 0) <= PLACEHOLDER_OUTPUT:
            return None
        return BilledFailure(usage)

    async def _report(self, *, cut: bool) -> None:
        """Report what a stream used that has ended, or was cut."""
        covered = self.received.is_reported and self.received.finish_reason is not None
        await self._set_usage(self.received.usage, covered=covered, cut=cut)

    async def _set_usage(self, report: UsageReport | None, *, covered: bool, cut: bool) -> None:
        """Set the usage by a report. `covered`: it covers all output; `cut`: there may be output that is not known."""
        charged = await set_usage(
            self._reservation,
            self._candidate,
            report,
            self._measure_hold if cut and self._bills_hidden_output else self._measure,
            has_output=self.received.has_output,
            covered=covered,
        )
        self.received.usage = charged.usage

    async def _measure_hold(self) -> tuple[int, int]:
        return self._reservation.terms.input_bound, self._reservation.granted_output

    async def _measure(self) -> tuple[int, int]:
        """Tokens of the input, reported or counted, and of the output received so far, counted."""
        input_tokens, text = self.received.input_tokens, self.received.text_since(0)
        if input_tokens is None or input_tokens > self._candidate.model.context_window:
            input_tokens = await self._input_count.tokens()
        return input_tokens, await self._provider.count_output(text) if text else 0
