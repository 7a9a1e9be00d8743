"""A model that is down is asked by a call now and then, and nobody closes it to the others for nothing."""

import asyncio
from contextlib import aclosing

import pytest
from breaker_under_test import FAILURES, PROBE_S, REFUSALS, SECONDS, TEST_DEADLINE_S, UNANSWERED, World

from tollkeeper import errors
from tollkeeper.providers.breaker import MAX_MODELS


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def opened(world: World) -> World:
    """One whose breaker has just opened."""
    await world.fail(times=FAILURES)
    return world


@pytest.mark.parametrize("error", UNANSWERED)
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
    assert raised.value.retry_after_s == PROBE_S
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


@pytest.mark.parametrize("error", REFUSALS)
async def test_a_refusal_is_a_sign_of_life(world: World, error: type[errors.ProviderError]) -> None:
    await world.fail(error, times=FAILURES + 1)
    await world.fail(times=FAILURES - 1)
    await world.fail(error)
    await world.fail(times=FAILURES - 1)
    assert not await world.is_open()


async def test_an_error_that_is_answered_is_no_failure_where_others_have_succeeded_lately(world: World) -> None:
    """One member's requests may make a model fail; that others' calls succeed shows that it is up."""
    for _ in range(5):
        await world.complete()
        world.now += SECONDS - 1
        await world.fail(errors.ProviderFailed, times=FAILURES + 1)
        assert await world.lets_all_through()


async def test_errors_that_are_answered_open_it_where_nobody_has_succeeded_for_the_whole_time(world: World) -> None:
    await world.complete()
    world.now += SECONDS
    await world.fail(errors.ProviderFailed, times=FAILURES)
    assert not await world.lets_all_through()


async def test_a_model_never_asked_before_counts_as_one_that_succeeds(world: World) -> None:
    await world.fail(errors.ProviderFailed, times=FAILURES)
    world.now += SECONDS - 1
    await world.fail(errors.ProviderFailed)
    assert await world.lets_all_through()


async def test_one_whose_requests_are_answered_by_errors_does_not_take_the_probes_from_the_others(
    world: World,
) -> None:
    """Twenty calls a second that fail at once, and one of somebody else a second: that one always comes through."""
    await world.complete()
    world.now += SECONDS
    for _ in range(5):
        await world.fail(errors.ProviderFailed, times=20)
        world.now += SECONDS
        assert (await world.complete()).text == "one"


async def test_a_probe_answered_by_an_error_slowly_delays_the_others_no_longer_than_a_probe(opened: World) -> None:
    opened.now += PROBE_S
    opened.provider.gate = asyncio.Event()
    opened.provider.error = errors.ProviderFailed
    slow = asyncio.create_task(opened.complete())
    await asyncio.sleep(0)
    assert await opened.is_open()
    opened.now += PROBE_S
    gate, opened.provider.gate, opened.provider.error = opened.provider.gate, None, None
    assert not await opened.is_open()
    gate.set()
    await asyncio.gather(slow, return_exceptions=True)
    assert not await opened.is_open()


async def test_one_model_that_is_down_closes_no_other(opened: World) -> None:
    assert await opened.is_open()
    assert (await opened.guarded.complete(opened.of("other"), 10)).text == "one"
    assert await opened.is_open()


async def test_no_more_models_are_watched_than_can_be(opened: World) -> None:
    for number in range(MAX_MODELS - 1):
        await opened.guarded.complete(opened.of(f"m{number}"), 10)
    assert await opened.is_open()
    await opened.guarded.complete(opened.of("one more"), 10)
    assert not await opened.is_open()


async def test_an_answer_that_makes_no_sense_says_nothing(world: World) -> None:
    await world.fail(times=FAILURES - 1)
    await world.fail(errors.ProviderBadResponse, times=FAILURES)
    assert world.provider.asked == 2 * FAILURES - 1
    await world.fail()
    assert await world.is_open()


async def test_after_the_time_one_call_alone_is_let_through_and_its_success_closes_it(opened: World) -> None:
    opened.now += PROBE_S
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
    opened.now += PROBE_S
    await opened.fail()
    opened.now += PROBE_S - 1
    assert await opened.is_open()
    opened.now += 1
    assert not await opened.is_open()


async def test_a_probe_that_does_not_end_is_followed_by_another(opened: World) -> None:
    opened.now += PROBE_S
    opened.provider.gate = asyncio.Event()
    stuck = asyncio.create_task(opened.complete())
    await asyncio.sleep(0)
    opened.provider.gate = None
    assert await opened.is_open()
    opened.now += PROBE_S
    assert not await opened.is_open()
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    assert not await opened.is_open()


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_caller_who_hangs_up_is_no_failure_and_the_next_call_may_try(opened: World, streaming: bool) -> None:
    opened.now += PROBE_S
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
        world.now += TEST_DEADLINE_S
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    world.provider.gate = None
    assert await world.is_open()


async def test_calls_that_were_out_when_it_opened_do_not_keep_it_open(world: World) -> None:
    async with world.calls_out("m") as out:
        await world.fail(times=FAILURES)
        world.now += PROBE_S
        await out(errors.ProviderTimeout)
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
    counted = (
        await guarded.count_input(world.call),
        await guarded.count_output("x"),
        await guarded.truncate_output("abc", 2),
    )
    assert counted == (11, 12, "ab")
    await guarded.close()
    assert world.provider.closed
