"""The circuit of a model: when it opens, probes, and closes."""

import asyncio
from contextlib import aclosing

import pytest

from support.breaker import (
    MAX_FAILURES,
    PERIOD_S,
    PROBE_INTERVAL_S,
    REFUSALS,
    TEST_DEADLINE_S,
    UNANSWERED,
    BreakerUnderTest,
)
from tollkeeper import errors
from tollkeeper.providers.breaker import MAX_MODELS


@pytest.fixture
def closed() -> BreakerUnderTest:
    return BreakerUnderTest()


@pytest.fixture
async def opened(closed: BreakerUnderTest) -> BreakerUnderTest:
    """A breaker whose circuit for the model `m` has just opened."""
    await closed.fail(times=MAX_FAILURES)
    return closed


@pytest.mark.parametrize("error", UNANSWERED)
async def test_it_opens_after_failures_in_a_row_and_then_calls_fail_at_once(
    closed: BreakerUnderTest, error: type[errors.ProviderError]
) -> None:
    await closed.fail(error, times=MAX_FAILURES)
    calls = closed.provider.call_count
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await closed.complete()
    with pytest.raises(errors.ProviderUnavailable):
        await closed.stream()
    assert closed.provider.call_count == calls == MAX_FAILURES
    assert raised.value.retry_after_s == PROBE_INTERVAL_S
    assert not raised.value.billed


async def test_retry_after_is_the_time_until_the_next_probe(opened: BreakerUnderTest) -> None:
    opened.now += 6.5
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await opened.complete()
    assert raised.value.retry_after_s == 4


async def test_a_success_resets_the_count_of_failures(closed: BreakerUnderTest) -> None:
    for _ in range(3):
        await closed.fail(times=MAX_FAILURES - 1)
        await closed.complete()
    await closed.fail(times=MAX_FAILURES - 1)
    assert not await closed.is_open()


@pytest.mark.parametrize("error", REFUSALS)
async def test_a_refusal_resets_the_count_of_failures(
    closed: BreakerUnderTest, error: type[errors.ProviderError]
) -> None:
    await closed.fail(error, times=MAX_FAILURES + 1)
    await closed.fail(times=MAX_FAILURES - 1)
    await closed.fail(error)
    await closed.fail(times=MAX_FAILURES - 1)
    assert not await closed.is_open()


async def test_a_5xx_answer_is_no_failure_if_a_call_has_succeeded_within_the_period(closed: BreakerUnderTest) -> None:
    """The requests of one user may make a model fail. Calls of others that succeed show that it is up."""
    for _ in range(5):
        await closed.complete()
        closed.now += PERIOD_S - 1
        await closed.fail(errors.ProviderFailed, times=MAX_FAILURES + 1)
        assert await closed.passes_simultaneous_calls()


async def test_5xx_answers_open_it_if_no_call_has_succeeded_within_the_period(closed: BreakerUnderTest) -> None:
    await closed.complete()
    closed.now += PERIOD_S
    await closed.fail(errors.ProviderFailed, times=MAX_FAILURES)
    assert not await closed.passes_simultaneous_calls()


async def test_a_model_that_was_never_called_counts_as_having_just_succeeded(closed: BreakerUnderTest) -> None:
    await closed.fail(errors.ProviderFailed, times=MAX_FAILURES)
    closed.now += PERIOD_S - 1
    await closed.fail(errors.ProviderFailed)
    assert await closed.passes_simultaneous_calls()


async def test_calls_that_are_answered_with_5xx_do_not_use_up_the_probes(
    closed: BreakerUnderTest,
) -> None:
    """Twenty calls of one user fail at once in each period; the one call of another user succeeds each time."""
    await closed.complete()
    closed.now += PERIOD_S
    for _ in range(5):
        await closed.fail(errors.ProviderFailed, times=20)
        closed.now += PERIOD_S
        assert (await closed.complete()).text == "one"


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
    assert (await opened.breaker.complete(opened.prepare("other"), 10)).text == "one"
    assert await opened.is_open()


async def test_the_oldest_circuit_is_dropped_at_the_maximum_number_of_models(opened: BreakerUnderTest) -> None:
    for number in range(MAX_MODELS - 1):
        await opened.breaker.complete(opened.prepare(f"m{number}"), 10)
    assert await opened.is_open()
    await opened.breaker.complete(opened.prepare("one more"), 10)
    assert not await opened.is_open()


async def test_a_malformed_answer_neither_counts_nor_resets(closed: BreakerUnderTest) -> None:
    await closed.fail(times=MAX_FAILURES - 1)
    await closed.fail(errors.ProviderBadResponse, times=MAX_FAILURES)
    assert closed.provider.call_count == 2 * MAX_FAILURES - 1
    await closed.fail()
    assert await closed.is_open()


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


async def test_cancelled_calls_never_open_it(closed: BreakerUnderTest) -> None:
    closed.provider.gate = asyncio.Event()
    for _ in range(MAX_FAILURES + 1):
        for call in (closed.stream(), closed.complete()):
            task = asyncio.create_task(call)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    closed.provider.gate = None
    assert not await closed.is_open()


async def test_a_stream_cancelled_after_the_first_chunk_timeout_is_a_failure(closed: BreakerUnderTest) -> None:
    closed.provider.gate = asyncio.Event()
    for _ in range(MAX_FAILURES):
        task = asyncio.create_task(closed.stream())
        await asyncio.sleep(0)
        closed.now += TEST_DEADLINE_S
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    closed.provider.gate = None
    assert await closed.is_open()


async def test_calls_in_flight_when_it_opened_do_not_delay_the_probe(closed: BreakerUnderTest) -> None:
    async with closed.calls_in_flight("m") as fail_all:
        await closed.fail(times=MAX_FAILURES)
        closed.now += PROBE_INTERVAL_S
        await fail_all(errors.ProviderTimeout)
    assert not await closed.is_open()


async def test_a_failure_after_the_first_chunk_does_not_count(closed: BreakerUnderTest) -> None:
    closed.provider.error = errors.ProviderInterrupted
    for _ in range(MAX_FAILURES - 1):
        with pytest.raises(errors.ProviderInterrupted):
            await closed.stream()
    closed.provider.chunks_before_error = 1
    for _ in range(MAX_FAILURES + 1):
        with pytest.raises(errors.ProviderInterrupted):
            await closed.stream()
    closed.provider.error = None
    assert not await closed.is_open()


async def test_a_failure_before_the_first_chunk_counts(closed: BreakerUnderTest) -> None:
    closed.provider.error = errors.ProviderInterrupted
    for _ in range(MAX_FAILURES):
        with pytest.raises(errors.ProviderInterrupted):
            await closed.stream()
    assert await closed.is_open()


async def test_closing_a_stream_closes_the_providers_stream(closed: BreakerUnderTest) -> None:
    async with aclosing(closed.breaker.stream(closed.prepared, 10)) as stream:
        await anext(stream)
    assert closed.provider.streams_closed == 1


async def test_all_other_methods_are_passed_to_the_provider(closed: BreakerUnderTest) -> None:
    breaker = closed.breaker
    assert breaker.name == "scripted"
    results = (
        await breaker.count_input(closed.prepared),
        await breaker.count_output("x"),
        await breaker.truncate_output("abc", 2),
    )
    assert results == (11, 12, "ab")
    await breaker.close()
    assert closed.provider.closed
