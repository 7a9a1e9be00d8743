"""A circuit breaker with a controllable clock, in front of a scripted provider."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Message, TextDelta, Usage
from tollkeeper.providers.base import CallInput, Model, PreparedCall, StreamChunk
from tollkeeper.providers.breaker import PROBES, CircuitBreaker
from tollkeeper.providers.echo import EchoProvider

MAX_FAILURES, PERIOD_S, FIRST_CHUNK_TIMEOUT_S = 3, 100.0, 1_000.0
PROBE_INTERVAL_S = PERIOD_S / PROBES
BROKEN = (errors.ProviderTimeout, errors.ProviderInterrupted)
"""The connection was made and then broke."""
UNANSWERED = (errors.ProviderUnavailable, *BROKEN)
REFUSALS = (
    errors.ProviderRateLimited,
    errors.ProviderRejected,
    errors.ProviderAuthFailed,
    errors.ProviderLacksModel,
)


class ScriptedProvider:
    """Waits for `gate`, if there is one, and raises `error`, if there is one; a stream does so after some chunks."""

    name = "scripted"

    def __init__(self) -> None:
        self.error: type[errors.ProviderError] | None = None
        self.chunks_before_error = 0
        self.gate: asyncio.Event | None = None
        self.call_count = 0
        self.streams_closed = 0
        self.closed = False

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        return EchoProvider().prepare(model, call_input, stream=stream)

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        self.call_count += 1
        await self._wait_and_raise()
        return Completion("one", "stop", Usage(1, 1))

    async def stream(self, prepared: PreparedCall, max_output: int) -> AsyncGenerator[StreamChunk]:
        self.call_count += 1
        try:
            for number in range(3):
                if number == self.chunks_before_error:
                    await self._wait_and_raise()
                yield StreamChunk(b"", (TextDelta("x"),))
        finally:
            self.streams_closed += 1

    async def bound_input(self, prepared: PreparedCall) -> int | None:
        return await self.count_input(prepared)

    async def count_input(self, prepared: PreparedCall) -> int:
        return 11

    async def count_output(self, text: str) -> int:
        return 12

    async def truncate_output(self, text: str, max_tokens: int) -> str:
        return text[:max_tokens]

    async def close(self) -> None:
        self.closed = True

    async def _wait_and_raise(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error


class BreakerUnderTest:
    """The breaker, its provider, and the breaker's clock: `now`, in seconds."""

    def __init__(self) -> None:
        self.provider = ScriptedProvider()
        self.now = 1_000.0
        self.circuit_breaker = CircuitBreaker(
            self.provider,
            max_failures=MAX_FAILURES,
            period_s=PERIOD_S,
            first_chunk_timeout_s=FIRST_CHUNK_TIMEOUT_S,
            now=lambda: self.now,
        )
        request = ChatRequest((Message("user", "one"),))
        self.call_input = CallInput(lambda: request)
        self.prepared = self.prepare("m")
        self._new_models = 0

    def prepare(self, model: str) -> PreparedCall:
        return self.circuit_breaker.prepare(Model(model, self.circuit_breaker), self.call_input)

    async def complete(self, model: str = "m") -> Completion:
        return await self.circuit_breaker.complete(self.prepare(model), 10)

    async def stream(self) -> int:
        """Read a whole stream. Returns the number of its chunks."""
        chunks = 0
        async with aclosing(self.circuit_breaker.stream(self.prepared, 10)) as stream:
            async for _ in stream:
                chunks += 1
        return chunks

    async def fail(
        self, error: type[errors.ProviderError] = errors.ProviderTimeout, times: int = 1, model: str = "m"
    ) -> None:
        """Make calls that reach the provider and fail there."""
        before, self.provider.error = self.provider.call_count, error
        for _ in range(times):
            with pytest.raises(error):
                await self.complete(model)
        assert self.provider.call_count == before + times
        self.provider.error = None

    async def fail_new_models(self, error: type[errors.ProviderError], times: int) -> None:
        """Make calls that fail, each of a model that was not called before."""
        for _ in range(times):
            self._new_models += 1
            await self.fail(error, model=f"model-{self._new_models}")

    @asynccontextmanager
    async def calls_in_flight(
        self, model: str
    ) -> AsyncIterator[Callable[[type[errors.ProviderError]], Awaitable[None]]]:
        """Start MAX_FAILURES calls. Yields a function that makes all of them fail with an error."""
        gate = self.provider.gate = asyncio.Event()
        calls = [asyncio.create_task(self.complete(model)) for _ in range(MAX_FAILURES)]
        await asyncio.sleep(0)
        self.provider.gate = None

        async def fail_all(error: type[errors.ProviderError]) -> None:
            self.provider.error = error
            gate.set()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [error] * MAX_FAILURES
            self.provider.error = None

        yield fail_all

    async def is_open(self, model: str = "m") -> bool:
        """Whether a call fails without reaching the provider."""
        before = self.provider.call_count
        try:
            await self.complete(model)
        except errors.ProviderUnavailable:
            return self.provider.call_count == before
        return False

    async def passes_simultaneous_calls(self) -> bool:
        """Whether both of two simultaneous calls reach the provider."""
        before, self.provider.gate = self.provider.call_count, asyncio.Event()
        calls = [asyncio.create_task(self.complete()) for _ in range(2)]
        await asyncio.sleep(0)
        reached = self.provider.call_count - before
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        self.provider.gate = None
        return reached == 2
