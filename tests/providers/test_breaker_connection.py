"""The circuit of the connection: a provider that cannot be reached is breaker for all of its models."""

import asyncio

import pytest

from support.breaker import BROKEN, MAX_FAILURES, PROBE_INTERVAL_S, REFUSALS, BreakerUnderTest
from tollkeeper import errors


@pytest.fixture
def breaker() -> BreakerUnderTest:
    return BreakerUnderTest()


@pytest.fixture
async def unreachable(breaker: BreakerUnderTest) -> BreakerUnderTest:
    """A breaker whose connection circuit has opened: MAX_FAILURES calls, each of another model, did not connect."""
    await breaker.fail_new_models(errors.ProviderUnavailable, MAX_FAILURES)
    return breaker


async def test_a_provider_unreachable_for_some_models_is_closed_for_all(unreachable: BreakerUnderTest) -> None:
    for model in ("m", "model-1", "new model"):
        assert await unreachable.is_open(model)
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await unreachable.stream()
    assert raised.value.retry_after_s == PROBE_INTERVAL_S
    assert unreachable.provider.call_count == MAX_FAILURES
    assert unreachable.circuit_breaker.is_disconnected


@pytest.mark.parametrize("error", [*BROKEN, errors.ProviderFailed])
async def test_a_failure_after_connecting_does_not_affect_other_models(
    breaker: BreakerUnderTest, error: type[errors.ProviderError]
) -> None:
    await breaker.fail_new_models(error, 2 * MAX_FAILURES)
    assert not await breaker.is_open()


async def test_a_successful_probe_of_any_model_closes_the_circuit_for_all(unreachable: BreakerUnderTest) -> None:
    unreachable.now += PROBE_INTERVAL_S
    unreachable.provider.gate = asyncio.Event()
    probe = asyncio.create_task(unreachable.complete("any"))
    await asyncio.sleep(0)
    assert await unreachable.is_open()
    unreachable.provider.gate.set()
    await probe
    for model in ("m", "model-1", "new model"):
        assert not await unreachable.is_open(model)


@pytest.mark.parametrize("error", [*REFUSALS, *BROKEN, errors.ProviderFailed, errors.ProviderBadResponse])
async def test_a_probe_that_fails_after_connecting_closes_the_circuit(
    unreachable: BreakerUnderTest, error: type[errors.ProviderError]
) -> None:
    unreachable.now += PROBE_INTERVAL_S
    await unreachable.fail(error, model="any")
    assert await unreachable.passes_simultaneous_calls()


async def test_a_probe_that_cannot_connect_keeps_it_open_for_another_probe_interval(
    unreachable: BreakerUnderTest,
) -> None:
    unreachable.now += PROBE_INTERVAL_S
    await unreachable.fail(errors.ProviderUnavailable, model="any")
    unreachable.now += PROBE_INTERVAL_S - 1
    assert await unreachable.is_open()
    unreachable.now += 1
    assert not await unreachable.is_open()


async def test_after_a_cancelled_probe_the_next_call_may_probe(unreachable: BreakerUnderTest) -> None:
    unreachable.now += PROBE_INTERVAL_S
    unreachable.provider.gate = asyncio.Event()
    probe = asyncio.create_task(unreachable.complete("any"))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    unreachable.provider.gate = None
    assert not await unreachable.is_open()


@pytest.mark.parametrize("error", [None, *REFUSALS, errors.ProviderFailed, errors.ProviderBadResponse])
async def test_an_answer_of_any_model_resets_the_count_of_failed_connections(
    breaker: BreakerUnderTest, error: type[errors.ProviderError] | None
) -> None:
    for _ in range(3):
        await breaker.fail_new_models(errors.ProviderUnavailable, MAX_FAILURES - 1)
        if error is None:
            await breaker.complete("any")
        else:
            await breaker.fail(error, model="any")
    await breaker.fail_new_models(errors.ProviderUnavailable, MAX_FAILURES - 1)
    assert not await breaker.is_open()


@pytest.mark.parametrize("error", BROKEN)
async def test_a_broken_connection_does_not_reset_the_count_of_failed_connections(
    breaker: BreakerUnderTest, error: type[errors.ProviderError]
) -> None:
    """When a provider goes down, calls in flight break while new ones already fail to connect."""
    async with breaker.calls_in_flight("m") as fail_all:
        await breaker.fail_new_models(errors.ProviderUnavailable, MAX_FAILURES - 1)
        await fail_all(error)
        await breaker.fail_new_models(errors.ProviderUnavailable, 1)
    assert await breaker.is_open("new model")


async def test_calls_in_flight_when_the_circuit_opened_do_not_delay_the_probe(breaker: BreakerUnderTest) -> None:
    async with breaker.calls_in_flight("m") as fail_all:
        await breaker.fail_new_models(errors.ProviderUnavailable, MAX_FAILURES)
        breaker.now += PROBE_INTERVAL_S
        await fail_all(errors.ProviderUnavailable)
    assert not await breaker.is_open()


async def test_a_call_refused_by_its_models_circuit_uses_no_probe_of_the_connection(breaker: BreakerUnderTest) -> None:
    async with breaker.calls_in_flight("m") as fail_all:
        await breaker.fail_new_models(errors.ProviderUnavailable, MAX_FAILURES)
        breaker.now += PROBE_INTERVAL_S - 1
        await fail_all(errors.ProviderTimeout)
    breaker.now += 1
    assert await breaker.is_open("m")
    assert not await breaker.is_open("any")
