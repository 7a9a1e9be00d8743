"""A circuit breaker: a provider or a model that is down gets few calls until it has recovered.

It spares callers the wait for an answer that does not come, and spares a provider under stress the load.

The breaker does not know which caller made a call. One caller whose requests make a model fail must not close the model
to the others. So an error that the provider answers (5xx) counts only where no call has succeeded for a while; and
after such an error, the next call is let through at once. What remains: where no other caller has called a model for a
while, requests that take long to fail can open its circuit, which delays the others until one of them is let through;
so can requests that time out, which are charged.

Each model has a circuit of its own. Only one failure concerns the whole provider, because no request can provoke it:
the connection cannot be made, whichever model is called.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

from tollkeeper import errors
from tollkeeper.chat import Completion
from tollkeeper.providers.base import SIGN_OF_LIFE, CallInput, ChunkStream, Model, PreparedCall, Provider, StreamChunk

_UNREACHABLE = errors.ProviderUnavailable
"""The connection could not be made: refused, no such host, no TLS, or a timeout."""
_BROKEN = (errors.ProviderTimeout, errors.ProviderInterrupted)
"""The connection was made and then broke. Whether another one could be made is not known."""
_DOWN = (errors.ProviderFailed, *_BROKEN)
"""Failures of the model, not of the call."""
_UP = (
    errors.ProviderRateLimited,
    errors.ProviderRejected,
    errors.ProviderAuthFailed,
    errors.ProviderLacksModel,
)
"""Failures that show that the model can be called: a key, say, can be valid for one model and not for another."""

TIMEOUT_SHARE = 0.9
"""A stream that is cancelled after this share of its timeout has timed out: the timeout starts before the breaker."""

PROBES = 10
"""How many calls an open circuit lets through per period."""
MAX_MODELS = 1_000
"""How many models have a circuit. The number is bounded, because callers can invent names."""


@dataclass(slots=True, eq=False)
class _Circuit:
    """The circuit of one model, or of the connection: its failures in a row, and when the last call succeeded.

    A new circuit counts as having just succeeded. Times are of the breaker's clock, in seconds.
    """

    succeeded_at: float
    failures: int = 0
    next_probe_at: float = 0.0

    def succeed(self, now: float) -> None:
        self.failures = 0
        self.succeeded_at = now


class _FirstChunkStream:
    """A stream whose first chunk is read by `read_first`, and the signs of life before it; others pass directly."""

    def __init__(self, chunks: ChunkStream, read_first: Callable[[ChunkStream], Awaitable[StreamChunk]]) -> None:
        self._chunks = chunks
        self._read_first = read_first
        self._next: Callable[[], Awaitable[StreamChunk]] = self._first

    def __aiter__(self) -> "_FirstChunkStream":
        return self

    def __anext__(self) -> Awaitable[StreamChunk]:
        return self._next()

    async def aclose(self) -> None:
        self._next = self._chunks.__anext__  # a bound method of this stream itself would be a reference cycle
        await self._chunks.aclose()

    async def _first(self) -> StreamChunk:
        chunk = await self._read_first(self._chunks)
        if chunk is not SIGN_OF_LIFE:
            self._next = self._chunks.__anext__
        return chunk


_Probed = tuple[_Circuit, ...]
"""The open circuits that a call probes; for most calls none."""


@dataclass(slots=True)
class _Entered:
    """What a stream probes, and when it began to wait for its first chunk. `probed` is None before that."""

    probed: _Probed | None = None
    at: float = 0.0


class CircuitBreaker:
    """A provider behind circuits: one for the connection to it, and one for each of its models.

    After `max_failures` in a row, a model's circuit is open: calls fail at once with ProviderUnavailable, which is not
    billed. Ten calls per `period_s` are let through as probes; a success closes the circuit. A 5xx answer counts as a
    failure only when the model has not succeeded for `period_s`; after one, the next call is let through at once. A
    stream that is cancelled after `first_chunk_timeout_s` without a chunk counts as a failure.

    After `max_failures` in a row to connect, for any models, the connection's circuit is open for all models in the
    same way, until a call reaches the provider. `now` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        max_failures: int,
        period_s: float,
        first_chunk_timeout_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = provider.name
        self.provider = provider
        self._max_failures = max_failures
        self._period_s = period_s
        self._timed_out_after_s = first_chunk_timeout_s * TIMEOUT_SHARE
        self._now = now
        self._connection = _Circuit(now())
        self._circuits: dict[str, _Circuit] = {}

    @property
    def is_disconnected(self) -> bool:
        """Whether the connection's circuit is open."""
        return self._connection.failures >= self._max_failures

    @property
    def open_models(self) -> list[str]:
        """The models whose circuit is open, by the provider's names for them. May be called in any thread."""
        return [name for name, one in list(self._circuits.items()) if one.failures >= self._max_failures]

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        return self.provider.prepare(model, call_input, stream=stream)

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        circuit = self._circuit(prepared)
        probed = self._enter(circuit)
        try:
            completion = await self.provider.complete(prepared, max_output)
        except errors.ProviderError as error:
            self._record_error(circuit, error, probed)
            raise
        except BaseException:
            self._release(probed)
            raise
        self._record_success(circuit)
        return completion

    def stream(self, prepared: PreparedCall, max_output: int) -> ChunkStream:
        """Counts as a success with its first chunk, whatever follows."""
        read_first = partial(self._read_first, self._circuit(prepared), _Entered())
        return _FirstChunkStream(self.provider.stream(prepared, max_output), read_first)

    async def _read_first(self, circuit: _Circuit, entered: _Entered, chunks: ChunkStream) -> StreamChunk:
        if entered.probed is None:
            entered.probed, entered.at = self._enter(circuit), self._now()
        probed = entered.probed
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration:
            raise
        except errors.ProviderError as error:
            self._record_error(circuit, error, probed)
            raise
        except BaseException:
            if self._now() - entered.at >= self._timed_out_after_s:
                self._record_error(circuit, errors.ProviderTimeout(), probed)
            else:
                self._release(probed)
            raise
        if chunk is not SIGN_OF_LIFE:
            self._record_success(circuit)
        return chunk

    async def bound_input(self, prepared: PreparedCall) -> int | None:
        return await self.provider.bound_input(prepared)

    async def count_input(self, prepared: PreparedCall) -> int:
        return await self.provider.count_input(prepared)

    async def count_output(self, text: str) -> int:
        return await self.provider.count_output(text)

    async def truncate_output(self, text: str, max_tokens: int) -> str:
        return await self.provider.truncate_output(text, max_tokens)

    async def close(self) -> None:
        await self.provider.close()

    def _circuit(self, prepared: PreparedCall) -> _Circuit:
        """The circuit of the model. A new one replaces the oldest when there are MAX_MODELS."""
        name = prepared.model.upstream_name
        if (circuit := self._circuits.get(name)) is None:
            if len(self._circuits) >= MAX_MODELS:
                del self._circuits[next(iter(self._circuits))]
            circuit = self._circuits[name] = _Circuit(succeeded_at=self._now())
        return circuit

    def _enter(self, circuit: _Circuit) -> _Probed:
        """The circuits that this call probes. Raises ProviderUnavailable while an open circuit lets no call through.

        The next probe does not wait for the end of this one: it follows after a fixed time.
        """
        if circuit.failures < self._max_failures and self._connection.failures < self._max_failures:
            return ()
        now = self._now()
        probed = tuple(one for one in (self._connection, circuit) if one.failures >= self._max_failures)
        wait_s = max(one.next_probe_at for one in probed) - now
        if wait_s > 0:
            raise errors.ProviderUnavailable(retry_after_s=ceil(wait_s))
        for one in probed:
            one.next_probe_at = now + self._period_s / PROBES
        return probed

    def _record_success(self, circuit: _Circuit) -> None:
        circuit.succeed(self._now())
        self._connection.failures = 0

    def _record_error(self, circuit: _Circuit, error: errors.ProviderError, probed: _Probed) -> None:
        """Count a failure in its circuit. A probe that fails after it has connected closes the connection's circuit."""
        if isinstance(error, _UNREACHABLE):
            self._record_failure(self._connection, probed, wait_s=self._period_s / PROBES)
            return
        if self._connection in probed or not isinstance(error, _BROKEN):
            self._connection.failures = 0
        now, answered = self._now(), isinstance(error, errors.ProviderFailed)
        if isinstance(error, _UP):
            circuit.succeed(now)
        elif not isinstance(error, _DOWN) or (answered and now - circuit.succeeded_at < self._period_s):
            self._release(probed)
        else:
            self._record_failure(circuit, probed, wait_s=0 if answered else self._period_s / PROBES)

    def _record_failure(self, circuit: _Circuit, probed: _Probed, *, wait_s: float) -> None:
        """One more failure. Calls that began before the circuit opened do not delay its next probe."""
        if circuit in probed or circuit.failures < self._max_failures:
            circuit.failures = min(circuit.failures + 1, self._max_failures)
            circuit.next_probe_at = self._now() + wait_s

    def _release(self, probed: _Probed) -> None:
        """The call has no result for the circuits: it was cancelled, or its error does not show that the model is down.

        The next call may probe at once.
        """
        for one in probed:
            one.next_probe_at = self._now()
