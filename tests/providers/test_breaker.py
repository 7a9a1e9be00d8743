"""A provider that is down is left alone for a while, and then asked by one call."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Message, TextDelta, Usage
from tollkeeper.providers.base import Model, Piece, PreparedCall, Question
from tollkeeper.providers.breaker import Guarded
from tollkeeper.providers.echo import EchoProvider

FAILURES, SECONDS, PATIENCE_S = 3, 10.0, 100.0
DOWN = (
    errors.ProviderUnavailable,
    errors.ProviderFailed,
    errors.ProviderTimeout,
    errors.ProviderInterrupted,
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

    def prepare(self, model: Model, question: Question, *, stream: bool = False) -> PreparedCall:
        return EchoProvider().prepare(model, question, stream=stream)

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        self.asked += 1
        await self._come()
        return Completion("one", "stop", Usage(1, 1))

    async def stream(self, call: PreparedCall, max_output: int) -> AsyncGenerator[Piece]:
        self.asked += 1
        try:
            for number in range(3):
                if number == self.pieces_before_error:
                    await self._come()
                yield Piece(b"", (TextDelta("x"),))
        finally:
            self.streams_closed += 1

    async def bound_input(self, call: PreparedCall) -> int | None:
        return await self.count_input(call)

    async def count_input(self, call: PreparedCall) -> int:
        return 11

    async def count_output(self, text: str) -> int:
        return 12

    async def cut(self, text: str, tokens: int) -> str:
        return text[:tokens]

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
        self.guarded = Guarded(
            self.provider, failures=FAILURES, seconds=SECONDS, patience_s=PATIENCE_S, now=lambda: self.now
        )
        request = ChatRequest((Message("user", "one"),))
        self.call = self.guarded.prepare(Model("m", self.guarded), Question(lambda: request))

    async def complete(self) -> Completion:
        return await self.guarded.complete(self.call, 10)

    async def stream(self) -> int:
        """How many pieces came."""
        pieces = 0
        async with aclosing(self.guarded.stream(self.call, 10)) as stream:
            async for _ in stream:
                pieces += 1
        return pieces

    async def fail(self, error: type[errors.ProviderError] = errors.ProviderFailed, times: int = 1) -> None:
        self.provider.error = error
        for _ in range(times):
            with pytest.raises(error):
                await self.complete()
        self.provider.error = None

    async def is_open(self) -> bool:
        """Whether a call fails without the provider hearing of it."""
        before = self.provider.asked
        try:
            await self.complete()
        except errors.ProviderUnavailable:
            return self.provider.asked == before
        return False


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def opened(world: World) -> World:
    """One whose breaker has just opened."""
    await world.fail(times=FAILURES)
    return world


@pytest.mark.parametrize("error", DOWN)
async def test_it_opens_after_failures_in_a_row_and_then_asks_nobody(
    world: World, error: type[errors.ProviderError]
) -> None:
    await world.fail(error, times=FAILURES)
    asked = world.provider.asked
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await world.complete()
    with pytest.raises(errors.ProviderUnavailable):
        await world.stream()
    assert world.provider.asked == asked == FAILURES
    assert raised.value.retry_after_s == SECONDS
    assert not raised.value.billed


async def test_it_says_how_long_it_stays_open(opened: World) -> None:
    opened.now += 6.5
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await opened.complete()
    assert raised.value.retry_after_s == 4


async def test_a_success_in_between_begins_the_row_anew(world: World) -> None:
    for _ in range(3):
        await world.fail(times=FAILURES - 1)
        await world.complete()
    await world.fail(times=FAILURES - 1)
    assert not await world.is_open()


@pytest.mark.parametrize("error", [errors.ProviderRateLimited, errors.ProviderRejected, errors.ProviderAuthFailed])
async def test_a_refusal_is_a_sign_of_life(world: World, error: type[errors.ProviderError]) -> None:
    await world.fail(error, times=FAILURES + 1)
    await world.fail(times=FAILURES - 1)
    await world.fail(error)
    await world.fail(times=FAILURES - 1)
    assert not await world.is_open()


async def test_an_answer_that_makes_no_sense_says_nothing(world: World) -> None:
    await world.fail(times=FAILURES - 1)
    await world.fail(errors.ProviderBadResponse, times=FAILURES)
    assert world.provider.asked == 2 * FAILURES - 1
    await world.fail()
    assert await world.is_open()


async def test_after_the_time_one_call_alone_is_let_through_and_its_success_closes_it(opened: World) -> None:
    opened.now += SECONDS
    opened.provider.gate = asyncio.Event()
    probe = asyncio.create_task(opened.complete())
    await asyncio.sleep(0)
    assert opened.provider.asked == FAILURES + 1
    assert await opened.is_open()
    opened.provider.gate.set()
    assert (await probe).text == "one"
    assert not await opened.is_open()
    assert await opened.stream() == 3


async def test_a_probe_that_fails_opens_it_for_as_long_again(opened: World) -> None:
    opened.now += SECONDS
    await opened.fail(errors.ProviderTimeout)
    opened.now += SECONDS - 1
    assert await opened.is_open()
    opened.now += 1
    assert not await opened.is_open()


async def test_a_probe_that_does_not_end_is_followed_by_another(opened: World) -> None:
    opened.now += SECONDS
    opened.provider.gate = asyncio.Event()
    stuck = asyncio.create_task(opened.complete())
    await asyncio.sleep(0)
    opened.provider.gate = None
    assert await opened.is_open()
    opened.now += SECONDS
    assert not await opened.is_open()
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    assert not await opened.is_open()


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_caller_who_hangs_up_is_no_failure_and_the_next_call_may_try(opened: World, streaming: bool) -> None:
    opened.now += SECONDS
    opened.provider.gate = asyncio.Event()
    probe = asyncio.create_task(opened.stream() if streaming else opened.complete())
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    opened.provider.gate = None
    assert not await opened.is_open()


async def test_callers_who_hang_up_never_open_it(world: World) -> None:
    world.provider.gate = asyncio.Event()
    for _ in range(FAILURES + 1):
        for call in (world.stream(), world.complete()):
            task = asyncio.create_task(call)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    world.provider.gate = None
    assert not await world.is_open()


async def test_a_stream_given_up_after_all_patience_is_a_failure(world: World) -> None:
    world.provider.gate = asyncio.Event()
    for _ in range(FAILURES):
        task = asyncio.create_task(world.stream())
        await asyncio.sleep(0)
        world.now += PATIENCE_S
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    world.provider.gate = None
    assert await world.is_open()


async def test_calls_that_were_out_when_it_opened_do_not_keep_it_open(world: World) -> None:
    world.provider.gate = asyncio.Event()
    world.provider.error = errors.ProviderFailed
    late = [asyncio.create_task(world.complete()) for _ in range(FAILURES)]
    await asyncio.sleep(0)
    gate, world.provider.gate = world.provider.gate, None
    await world.fail(times=FAILURES)
    world.now += SECONDS
    world.provider.error = errors.ProviderFailed
    gate.set()
    await asyncio.gather(*late, return_exceptions=True)
    world.provider.error = None
    assert not await world.is_open()


async def test_a_stream_fails_only_before_its_first_piece(world: World) -> None:
    world.provider.error = errors.ProviderInterrupted
    for _ in range(FAILURES - 1):
        with pytest.raises(errors.ProviderInterrupted):
            await world.stream()
    world.provider.pieces_before_error = 1
    for _ in range(FAILURES + 1):
        with pytest.raises(errors.ProviderInterrupted):
            await world.stream()
    world.provider.error = None
    assert not await world.is_open()


async def test_a_stream_that_breaks_before_its_first_piece_counts(world: World) -> None:
    world.provider.error = errors.ProviderInterrupted
    for _ in range(FAILURES):
        with pytest.raises(errors.ProviderInterrupted):
            await world.stream()
    assert await world.is_open()


async def test_leaving_a_stream_hangs_up_on_the_provider(world: World) -> None:
    async with aclosing(world.guarded.stream(world.call, 10)) as stream:
        await anext(stream)
    assert world.provider.streams_closed == 1


async def test_everything_else_is_the_provider_itself(world: World) -> None:
    guarded = world.guarded
    assert guarded.name == "scripted"
    counted = (await guarded.count_input(world.call), await guarded.count_output("x"), await guarded.cut("abc", 2))
    assert counted == (11, 12, "ab")
    await guarded.close()
    assert world.provider.closed
