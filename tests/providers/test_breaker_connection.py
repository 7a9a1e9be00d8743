"""Whoever cannot be reached is down with all of its models: one failure that no request can provoke."""

import asyncio

import pytest
from breaker_under_test import BROKEN, FAILURES, PROBE_S, REFUSALS, World

from tollkeeper import errors


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def unreachable(world: World) -> World:
    """One whose provider could not be reached for as many models as it takes."""
    await world.fail_each(errors.ProviderUnavailable, FAILURES)
    return world


async def test_whoever_cannot_be_reached_for_some_models_is_asked_for_none(unreachable: World) -> None:
    for model in ("m", "model-1", "never asked"):
        assert await unreachable.is_open(model)
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await unreachable.stream()
    assert raised.value.retry_after_s == PROBE_S
    assert unreachable.provider.asked == FAILURES


@pytest.mark.parametrize("error", [*BROKEN, errors.ProviderFailed])
async def test_what_fails_after_a_connection_was_made_says_nothing_of_other_models(
    world: World, error: type[errors.ProviderError]
) -> None:
    await world.fail_each(error, 2 * FAILURES)
    assert not await world.is_open()


async def test_the_success_of_any_model_closes_the_way_to_all(unreachable: World) -> None:
    unreachable.now += PROBE_S
    unreachable.provider.gate = asyncio.Event()
    probe = asyncio.create_task(unreachable.complete("any"))
    await asyncio.sleep(0)
    assert await unreachable.is_open()
    unreachable.provider.gate.set()
    await probe
    for model in ("m", "model-1", "never asked"):
        assert not await unreachable.is_open(model)


@pytest.mark.parametrize("error", [*REFUSALS, *BROKEN, errors.ProviderFailed, errors.ProviderBadResponse])
async def test_a_probe_that_fails_after_it_has_connected_closes_the_way(
    unreachable: World, error: type[errors.ProviderError]
) -> None:
    unreachable.now += PROBE_S
    await unreachable.fail(error, model="any")
    assert await unreachable.lets_all_through()


async def test_a_probe_that_cannot_connect_keeps_everyone_out_for_as_long_again(unreachable: World) -> None:
    unreachable.now += PROBE_S
    await unreachable.fail(errors.ProviderUnavailable, model="any")
    unreachable.now += PROBE_S - 1
    assert await unreachable.is_open()
    unreachable.now += 1
    assert not await unreachable.is_open()


async def test_a_caller_who_hangs_up_on_a_probe_leaves_it_to_the_next(unreachable: World) -> None:
    unreachable.now += PROBE_S
    unreachable.provider.gate = asyncio.Event()
    probe = asyncio.create_task(unreachable.complete("any"))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    unreachable.provider.gate = None
    assert not await unreachable.is_open()


@pytest.mark.parametrize("error", [None, *REFUSALS, errors.ProviderFailed, errors.ProviderBadResponse])
async def test_an_answer_of_any_model_begins_the_row_of_those_that_did_not_connect_anew(
    world: World, error: type[errors.ProviderError] | None
) -> None:
    for _ in range(3):
        await world.fail_each(errors.ProviderUnavailable, FAILURES - 1)
        if error is None:
            await world.complete("any")
        else:
            await world.fail(error, model="any")
    await world.fail_each(errors.ProviderUnavailable, FAILURES - 1)
    assert not await world.is_open()


@pytest.mark.parametrize("error", BROKEN)
async def test_a_connection_that_breaks_does_not_show_that_another_could_be_made(
    world: World, error: type[errors.ProviderError]
) -> None:
    """Calls that are out when a provider goes down are cut while others cannot connect any more."""
    async with world.calls_out("m") as out:
        await world.fail_each(errors.ProviderUnavailable, FAILURES - 1)
        await out(error)
        await world.fail_each(errors.ProviderUnavailable, 1)
    assert await world.is_open("never asked")


async def test_calls_that_were_out_when_the_way_opened_do_not_keep_it_open(world: World) -> None:
    async with world.calls_out("m") as out:
        await world.fail_each(errors.ProviderUnavailable, FAILURES)
        world.now += PROBE_S
        await out(errors.ProviderUnavailable)
    assert not await world.is_open()


async def test_a_model_that_is_kept_out_does_not_use_up_the_probe_of_the_way(world: World) -> None:
    async with world.calls_out("m") as out:
        await world.fail_each(errors.ProviderUnavailable, FAILURES)
        world.now += PROBE_S - 1
        await out(errors.ProviderTimeout)
    world.now += 1
    assert await world.is_open("m")
    assert not await world.is_open("any")
