"""A provider that fails as told, behind a breaker whose clock a test sets."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Message, TextDelta, Usage
from tollkeeper.providers.base import CallInput, Model, PreparedCall, StreamChunk
from tollkeeper.providers.breaker import PROBES, CircuitBreaker
from tollkeeper.providers.echo import EchoProvider

FAILURES, SECONDS, TEST_DEADLINE_S = 3, 100.0, 1_000.0
PROBE_S = SECONDS / PROBES
BROKEN = (errors.ProviderTimeout, errors.ProviderInterrupted)
UNANSWERED = (errors.ProviderUnavailable, *BROKEN)
REFUSALS = (
    errors.ProviderRateLimited,
    errors.ProviderRejected,
    errors.ProviderAuthFailed,
    errors.ProviderLacksModel,
)


class Scripted:
    """A provider that fails as told, after so many pieces, or waits for `gate`."""

    name = "scripted"

    def __init__(self) -> None:
        self.error: type[errors.ProviderError] | None = None
        self.pieces_before_error = 0
        self.gate: asyncio.Event | None = None
        self.asked = 0
        self.streams_closed = 0
        self.closed = False

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        return EchoProvider().prepare(model, call_input, stream=stream)

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        self.asked += 1
        await self._come()
        return Completion("one", "stop", Usage(1, 1))

    async def stream(self, prepared: PreparedCall, max_output: int) -> AsyncGenerator[StreamChunk]:
        self.asked += 1
        try:
            for number in range(3):
                if number == self.pieces_before_error:
                    await self._come()
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

    async def _come(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error


class World:
    """A guarded provider, what it does, and what time it is."""

    def __init__(self) -> None:
        self.provider = Scripted()
        self.now = 1_000.0
        self.guarded = CircuitBreaker(
            self.provider,
            max_failures=FAILURES,
            period_s=SECONDS,
            first_chunk_timeout_s=TEST_DEADLINE_S,
            now=lambda: self.now,
        )
        request = ChatRequest((Message("user", "one"),))
        self.call_input = CallInput(lambda: request)
        self.call = self.of("m")
        self.models = 0

    def of(self, model: str) -> PreparedCall:
        return self.guarded.prepare(Model(model, self.guarded), self.call_input)

    async def complete(self, model: str = "m") -> Completion:
        return await self.guarded.complete(self.of(model), 10)

    async def stream(self) -> int:
        """How many pieces came."""
        pieces = 0
        async with aclosing(self.guarded.stream(self.call, 10)) as stream:
            async for _ in stream:
                pieces += 1
        return pieces

    async def fail(
        self, error: type[errors.ProviderError] = errors.ProviderTimeout, times: int = 1, model: str = "m"
    ) -> None:
        """So many calls that reach the provider, and fail."""
        before, self.provider.error = self.provider.asked, error
        for _ in range(times):
            with pytest.raises(error):
                await self.complete(model)
        assert self.provider.asked == before + times
        self.provider.error = None

    async def fail_each(self, error: type[errors.ProviderError], times: int) -> None:
        """The same, each for a model that nobody has asked for."""
        for _ in range(times):
            self.models += 1
            await self.fail(error, model=f"model-{self.models}")

    @asynccontextmanager
    async def calls_out(self, model: str) -> AsyncIterator[Callable[[type[errors.ProviderError]], Awaitable[None]]]:
        """FAILURES calls that are under way, until they are told to fail."""
        gate = self.provider.gate = asyncio.Event()
        calls = [asyncio.create_task(self.complete(model)) for _ in range(FAILURES)]
        await asyncio.sleep(0)
        self.provider.gate = None

        async def fail(error: type[errors.ProviderError]) -> None:
            self.provider.error = error
            gate.set()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(end) for end in ends] == [error] * FAILURES
            self.provider.error = None

        yield fail

    async def is_open(self, model: str = "m") -> bool:
        """Whether a call fails without the provider hearing of it."""
        before = self.provider.asked
        try:
            await self.complete(model)
        except errors.ProviderUnavailable:
            return self.provider.asked == before
        return False

    async def lets_all_through(self) -> bool:
        """Whether two calls at once reach the provider, both."""
        before, self.provider.gate = self.provider.asked, asyncio.Event()
        calls = [asyncio.create_task(self.complete()) for _ in range(2)]
        await asyncio.sleep(0)
        reached = self.provider.asked - before
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        self.provider.gate = None
        return reached == 2
