"""A circuit breaker: a provider or a model that is down is hardly asked, until it may have come back.

It spares callers the wait for somebody who is not there, and takes the load off somebody who is about to break down.
Those who are let through are never told apart by who they are. So one caller whose requests make a model fail must not
close it to the others: an error that the provider answers counts only where nobody has succeeded for a while, and
while all calls end so, each is followed at once by the next. What is left: where nobody else has asked for a while,
requests that take long to fail can open it and delay the others until one of them is let through, and so can those that
end in a timeout, which are charged. So models are judged one by one, but for one failure that no request can provoke:
where nobody takes the connection, the provider as a whole is down, whichever of its models was asked.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

from tollkeeper import errors
from tollkeeper.chat import Completion
from tollkeeper.providers.base import CallInput, ChunkStream, Model, PreparedCall, Provider, StreamChunk

_UNREACHABLE = errors.ProviderUnavailable
"""Nobody took the connection: it was refused, or there is no such host, or no TLS, or no answer in time."""
_BROKEN = (errors.ProviderTimeout, errors.ProviderInterrupted)
"""The connection was made, some time ago; whether another could be made now is not known."""
_DOWN = (errors.ProviderFailed, *_BROKEN)
"""Failures that say that the model, and not the call, is at fault."""
_UP = (
    errors.ProviderRateLimited,
    errors.ProviderRejected,
    errors.ProviderAuthFailed,
    errors.ProviderLacksModel,
)
"""Failures that only someone can tell who is there. A key may be good for one model, and not for another."""

NEARLY = 0.9
"""Whoever gives up a stream began to wait a little before it was asked."""

PROBES = 10
"""How many calls an open circuit lets through in the time that it is told."""
MAX_MODELS = 1_000
"""How many models are watched: names may be made up."""


@dataclass(slots=True, eq=False)
class _Circuit:
    """What is known of one model, or of the way to the provider: its failures in a row, and when it succeeded last.

    One never seen counts as fine.
    """

    succeeded: float
    failures: int = 0
    next_probe: float = 0.0

    def succeed(self, now: float) -> None:
        self.failures = 0
        self.succeeded = now


class _Watched:
    """A stream of which only the first piece is looked at: `first` takes it."""

    def __init__(self, pieces: ChunkStream, first: Callable[[ChunkStream], Awaitable[StreamChunk]]) -> None:
        self._pieces = pieces
        self._first = first
        self._next: Callable[[], Awaitable[StreamChunk]] = self._begin

    def __aiter__(self) -> "_Watched":
        return self

    def __anext__(self) -> Awaitable[StreamChunk]:
        return self._next()

    async def aclose(self) -> None:
        self._next = self._pieces.__anext__  # and so no longer a method of its own, which would be a circle
        await self._pieces.aclose()

    async def _begin(self) -> StreamChunk:
        piece = await self._first(self._pieces)
        self._next = self._pieces.__anext__
        return piece


_Probed = tuple[_Circuit, ...]
"""The open circuits that a call was let through to probe; mostly none."""


class CircuitBreaker:
    """A provider behind a breaker that watches the way to it, and each of its models.

    After `failures` in a row a model's circuit is open: calls fail at once with ProviderUnavailable, which is not
    billed, but for ten in `seconds` that are let through, until one succeeds. A 5xx answer is a failure only when the
    model has not succeeded for `seconds`; and after one the next call is let through at once. A stream that is given up
    after `patience_s` without a piece counts as a failure. After `failures` in a row to connect, for whichever models,
    the way to the provider is open like that, for all of its models, until a call for any of them comes through to it.
    `now` is a clock in seconds that never goes back.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        failures: int,
        seconds: float,
        patience_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = provider.name
        self.provider = provider
        self._most = failures
        self._seconds = seconds
        self._patience_s = patience_s * NEARLY
        self._now = now
        self._way = _Circuit(now())
        self._circuits: dict[str, _Circuit] = {}

    def prepare(self, model: Model, question: CallInput, *, stream: bool = False) -> PreparedCall:
        return self.provider.prepare(model, question, stream=stream)

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        circuit = self._circuit(call)
        probed = self._enter(circuit)
        try:
            completion = await self.provider.complete(call, max_output)
        except errors.ProviderError as error:
            self._failed(circuit, error, probed)
            raise
        except BaseException:
            self._left(probed)
            raise
        self._succeeded(circuit)
        return completion

    def stream(self, call: PreparedCall, max_output: int) -> ChunkStream:
        """With the first piece it has succeeded, whatever comes after."""
        return _Watched(self.provider.stream(call, max_output), partial(self._first, self._circuit(call)))

    async def _first(self, circuit: _Circuit, pieces: ChunkStream) -> StreamChunk:
        probed = self._enter(circuit)
        started = self._now()
        try:
            piece = await anext(pieces)
        except StopAsyncIteration:
            raise
        except errors.ProviderError as error:
            self._failed(circuit, error, probed)
            raise
        except BaseException:
            if self._now() - started >= self._patience_s:
                self._failed(circuit, errors.ProviderTimeout(), probed)
            else:
                self._left(probed)
            raise
        self._succeeded(circuit)
        return piece

    async def bound_input(self, call: PreparedCall) -> int | None:
        return await self.provider.bound_input(call)

    async def count_input(self, call: PreparedCall) -> int:
        return await self.provider.count_input(call)

    async def count_output(self, text: str) -> int:
        return await self.provider.count_output(text)

    async def cut(self, text: str, tokens: int) -> str:
        return await self.provider.cut(text, tokens)

    async def close(self) -> None:
        await self.provider.close()

    def _circuit(self, call: PreparedCall) -> _Circuit:
        """The circuit of the model that is asked; the oldest is forgotten when there are too many."""
        name = call.model.upstream_name
        if (circuit := self._circuits.get(name)) is None:
            if len(self._circuits) >= MAX_MODELS:
                del self._circuits[next(iter(self._circuits))]
            circuit = self._circuits[name] = _Circuit(succeeded=self._now())
        return circuit

    def _enter(self, circuit: _Circuit) -> _Probed:
        """What the call probes; others may when it has not answered in time. Raises ProviderUnavailable."""
        if circuit.failures < self._most and self._way.failures < self._most:
            return ()
        now = self._now()
        probed = tuple(one for one in (self._way, circuit) if one.failures >= self._most)
        wait_s = max(one.next_probe for one in probed) - now
        if wait_s > 0:
            raise errors.ProviderUnavailable(retry_after_s=ceil(wait_s))
        for one in probed:
            one.next_probe = now + self._seconds / PROBES
        return probed

    def _succeeded(self, circuit: _Circuit) -> None:
        circuit.succeed(self._now())
        self._way.failures = 0

    def _failed(self, circuit: _Circuit, error: errors.ProviderError, probed: _Probed) -> None:
        """Of a probe, any failure but one to connect shows that the provider can be reached again."""
        if isinstance(error, _UNREACHABLE):
            self._count(self._way, probed, wait_s=self._seconds / PROBES)
            return
        if self._way in probed or not isinstance(error, _BROKEN):
            self._way.failures = 0
        now, answered = self._now(), isinstance(error, errors.ProviderFailed)
        if isinstance(error, _UP):
            circuit.succeed(now)
        elif not isinstance(error, _DOWN) or (answered and now - circuit.succeeded < self._seconds):
            self._left(probed)
        else:
            self._count(circuit, probed, wait_s=0 if answered else self._seconds / PROBES)

    def _count(self, circuit: _Circuit, probed: _Probed, *, wait_s: float) -> None:
        """One more failure. Calls that were out when it opened change nothing when they fail too."""
        if circuit in probed or circuit.failures < self._most:
            circuit.failures = min(circuit.failures + 1, self._most)
            circuit.next_probe = self._now() + wait_s

    def _left(self, probed: _Probed) -> None:
        """The call changed nothing: its caller hung up, or the answer was no sign that the model is down."""
        for one in probed:
            one.next_probe = self._now()
