"""The circuit of a model: when it opens, probes, and closes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from support.breaker import (
    FIRST_CHUNK_TIMEOUT_S,
    MAX_FAILURES,
    PERIOD_S,
    PROBE_INTERVAL_S,
    REFUSALS,
    UNANSWERED,
    BreakerUnderTest,
)
from tollkeeper import errors
from tollkeeper.providers.base import SIGN_OF_LIFE, StreamChunk
from tollkeeper.providers.breaker import MAX_MODELS


@pytest.fixture
def breaker() -> BreakerUnderTest:
    return BreakerUnderTest()


@pytest.fixture
async def opened(breaker: BreakerUnderTest) -> BreakerUnderTest:
    """A breaker whose circuit for the model `m` has just opened."""
    await breaker.fail(times=MAX_FAILURES)
    return breaker


@pytest.mark.parametrize("error", UNANSWERED)
async def test_it_opens_after_failures_in_a_row_and_then_calls_fail_at_once(
    breaker: BreakerUnderTest, error: type[errors.ProviderError]
) -> None:
    await breaker.fail(error, times=MAX_FAILURES)
    calls = breaker.provider.call_count
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await breaker.complete()
    with pytest.raises(errors.ProviderUnavailable):
        await breaker.stream()
    assert breaker.provider.call_count == calls == MAX_FAILURES
    assert raised.value.retry_after_s == PROBE_INTERVAL_S
    assert not raised.value.billed


async def test_retry_after_is_the_time_until_the_next_probe(opened: BreakerUnderTest) -> None:
    opened.now += 6.5
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await opened.complete()
    assert raised.value.retry_after_s == 4


async def test_a_success_resets_the_count_of_failures(breaker: BreakerUnderTest) -> None:
    for _ in range(3):
        await breaker.fail(times=MAX_FAILURES - 1)
        await breaker.complete()
    await breaker.fail(times=MAX_FAILURES - 1)
    assert not await breaker.is_open()


@pytest.mark.parametrize("error", REFUSALS)
async def test_a_refusal_resets_the_count_of_failures(
    breaker: BreakerUnderTest, error: type[errors.ProviderError]
) -> None:
    await breaker.fail(error, times=MAX_FAILURES + 1)
    await breaker.fail(times=MAX_FAILURES - 1)
    await breaker.fail(error)
    await breaker.fail(times=MAX_FAILURES - 1)
    assert not await breaker.is_open()


async def test_a_5xx_answer_is_no_failure_if_a_call_has_succeeded_within_the_period(breaker: BreakerUnderTest) -> None:
    """The requests of one user may make a model fail. Calls of others that succeed show that it is up."""
    for _ in range(5):
        await breaker.complete()
        breaker.now += PERIOD_S - 1
        await breaker.fail(errors.ProviderFailed, times=MAX_FAILURES + 1)
        assert await breaker.passes_simultaneous_calls()


async def test_5xx_answers_open_it_if_no_call_has_succeeded_within_the_period(breaker: BreakerUnderTest) -> None:
    await breaker.complete()
    breaker.now += PERIOD_S
    await breaker.fail(errors.ProviderFailed, times=MAX_FAILURES)
    assert not await breaker.passes_simultaneous_calls()


async def test_a_model_that_was_never_called_counts_as_having_just_succeeded(breaker: BreakerUnderTest) -> None:
    await breaker.fail(errors.ProviderFailed, times=MAX_FAILURES)
    breaker.now += PERIOD_S - 1
    await breaker.fail(errors.ProviderFailed)
    assert await breaker.passes_simultaneous_calls()


async def test_calls_that_are_answered_with_5xx_do_not_use_up_the_probes(
    breaker: BreakerUnderTest,
) -> None:
    """Twenty calls of one user fail at once in each period; the one call of another user succeeds each time."""
    await breaker.complete()
    breaker.now += PERIOD_S
    for _ in range(5):
        await breaker.fail(errors.ProviderFailed, times=20)
        breaker.now += PERIOD_S
        assert (await breaker.complete()).text == "one"


async def test_a_probe_with_a_slow_5xx_answer_delays_other_calls_by_one_probe_interval(
    opened: BreakerUnderTest,
) -> None:
    opened.now += PROBE_INTERVAL_S
    opened.provider.gate = asyncio.Event()
    opened.provider.error = errors.ProviderFailed
    slow = asyncio.create_task(opened.complete())
    await asyncio.sleep(0)
    assert await opened.is_open()
    opened.now += PROBE_INTERVAL_S
    gate, opened.provider.gate, opened.provider.error = opened.provider.gate, None, None
    assert not await opened.is_open()
    gate.set()
    await asyncio.gather(slow, return_exceptions=True)
    assert not await opened.is_open()


async def test_the_open_circuit_of_a_model_does_not_affect_another(opened: BreakerUnderTest) -> None:
    assert await opened.is_open()
    assert (await opened.circuit_breaker.complete(opened.prepare("other"), 10)).text == "one"
    assert await opened.is_open()
    assert opened.circuit_breaker.open_models == ["m"]
    assert not opened.circuit_breaker.is_disconnected


async def test_the_oldest_circuit_is_dropped_at_the_maximum_number_of_models(opened: BreakerUnderTest) -> None:
    for number in range(MAX_MODELS - 1):
        await opened.circuit_breaker.complete(opened.prepare(f"m{number}"), 10)
    assert await opened.is_open()
    await opened.circuit_breaker.complete(opened.prepare("one more"), 10)
    assert not await opened.is_open()


async def test_a_malformed_answer_neither_counts_nor_resets(breaker: BreakerUnderTest) -> None:
    await breaker.fail(times=MAX_FAILURES - 1)
    await breaker.fail(errors.ProviderBadResponse, times=MAX_FAILURES)
    assert breaker.provider.call_count == 2 * MAX_FAILURES - 1
    await breaker.fail()
    assert await breaker.is_open()


async def test_after_the_probe_interval_one_probe_passes_and_its_success_closes_the_circuit(
    opened: BreakerUnderTest,
) -> None:
    opened.now += PROBE_INTERVAL_S
    opened.provider.gate = asyncio.Event()
    probe = asyncio.create_task(opened.complete())
    await asyncio.sleep(0)
    assert opened.provider.call_count == MAX_FAILURES + 1
    assert await opened.is_open()
    opened.provider.gate.set()
    assert (await probe).text == "one"
    assert not await opened.is_open()
    assert await opened.stream() == 3


async def test_a_failed_probe_keeps_it_open_for_another_probe_interval(opened: BreakerUnderTest) -> None:
    opened.now += PROBE_INTERVAL_S
    await opened.fail()
    opened.now += PROBE_INTERVAL_S - 1
    assert await opened.is_open()
    opened.now += 1
    assert not await opened.is_open()


async def test_a_probe_that_hangs_is_followed_by_another(opened: BreakerUnderTest) -> None:
    opened.now += PROBE_INTERVAL_S
    opened.provider.gate = asyncio.Event()
    stuck = asyncio.create_task(opened.complete())
    await asyncio.sleep(0)
    opened.provider.gate = None
    assert await opened.is_open()
    opened.now += PROBE_INTERVAL_S
    assert not await opened.is_open()
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    assert not await opened.is_open()


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_cancelled_probe_is_no_failure_and_the_next_call_may_probe(
    opened: BreakerUnderTest, streaming: bool
) -> None:
    opened.now += PROBE_INTERVAL_S
    opened.provider.gate = asyncio.Event()
    probe = asyncio.create_task(opened.stream() if streaming else opened.complete())
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    opened.provider.gate = None
    assert not await opened.is_open()


async def test_cancelled_calls_never_open_it(breaker: BreakerUnderTest) -> None:
    breaker.provider.gate = asyncio.Event()
    for _ in range(MAX_FAILURES + 1):
        for call in (breaker.stream(), breaker.complete()):
            task = asyncio.create_task(call)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    breaker.provider.gate = None
    assert not await breaker.is_open()


async def test_a_stream_cancelled_after_the_first_chunk_timeout_is_a_failure(breaker: BreakerUnderTest) -> None:
    breaker.provider.gate = asyncio.Event()
    for _ in range(MAX_FAILURES):
        task = asyncio.create_task(breaker.stream())
        await asyncio.sleep(0)
        breaker.now += FIRST_CHUNK_TIMEOUT_S
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    breaker.provider.gate = None
    assert await breaker.is_open()


async def test_calls_in_flight_when_it_opened_do_not_delay_the_probe(breaker: BreakerUnderTest) -> None:
    async with breaker.calls_in_flight("m") as fail_all:
        await breaker.fail(times=MAX_FAILURES)
        breaker.now += PROBE_INTERVAL_S
        await fail_all(errors.ProviderTimeout)
    assert not await breaker.is_open()


async def test_a_failure_after_the_first_chunk_does_not_count(breaker: BreakerUnderTest) -> None:
    breaker.provider.error = errors.ProviderInterrupted
    for _ in range(MAX_FAILURES - 1):
        with pytest.raises(errors.ProviderInterrupted):
            await breaker.stream()
    breaker.provider.chunks_before_error = 1
    for _ in range(MAX_FAILURES + 1):
        with pytest.raises(errors.ProviderInterrupted):
            await breaker.stream()
    breaker.provider.error = None
    assert not await breaker.is_open()


async def test_a_failure_before_the_first_chunk_counts(breaker: BreakerUnderTest) -> None:
    breaker.provider.error = errors.ProviderInterrupted
    for _ in range(MAX_FAILURES):
        with pytest.raises(errors.ProviderInterrupted):
            await breaker.stream()
    assert await breaker.is_open()


async def test_closing_a_stream_closes_the_providers_stream(breaker: BreakerUnderTest) -> None:
    async with aclosing(breaker.circuit_breaker.stream(breaker.prepared, 10)) as stream:
        await anext(stream)
    assert breaker.provider.streams_closed == 1


async def test_all_other_methods_are_passed_to_the_provider(breaker: BreakerUnderTest) -> None:
    circuit_breaker = breaker.circuit_breaker
    assert circuit_breaker.name == "scripted"
    results = (
        await circuit_breaker.count_input(breaker.prepared),
        await circuit_breaker.count_output("x"),
        await circuit_breaker.truncate_output("abc", 2),
    )
    assert results == (11, 12, "ab")
    await circuit_breaker.close()
    assert breaker.provider.closed


async def test_a_sign_of_life_before_a_failure_is_no_success(breaker: BreakerUnderTest) -> None:
    async def fail_after_a_comment(*_: object) -> AsyncIterator[StreamChunk]:
        yield SIGN_OF_LIFE
        raise errors.ProviderTimeout

    breaker.provider.stream = fail_after_a_comment  # type: ignore[method-assign, assignment]
    for _ in range(MAX_FAILURES):
        with pytest.raises(errors.ProviderTimeout):
            await breaker.stream()
    assert await breaker.is_open()
