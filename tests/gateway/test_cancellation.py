"""Ending from outside what a task is doing, and waiting only so long. Time is virtual here: `at` says when it is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.virtual_time import run
from tollkeeper.gateway.cancellation import CancelScope, StreamTimeouts


def at() -> float:
    return round(asyncio.get_running_loop().time(), 6)


def later(seconds: float, call: Callable[..., object], *arguments: Any) -> None:
    asyncio.get_running_loop().call_later(seconds, call, *arguments)


def me() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def test_a_block_that_nobody_cuts_goes_on_to_its_end() -> None:
    with CancelScope() as cut:
        await asyncio.sleep(0)
    assert (cut.reason, cut.left, me().cancelling()) == (None, True, 0)


async def test_whoever_cuts_first_says_why() -> None:
    with CancelScope() as cut:
        assert not cut.left
        later(0, cut.cancel, "first")
        later(0, cut.cancel, "second")
        await asyncio.Event().wait()
        pytest.fail("the block went on")
    assert (cut.reason, me().cancelling()) == ("first", 0)


async def test_nothing_is_cancelled_after_the_block() -> None:
    """Neither by what was said in time, nor by what is said too late."""
    with CancelScope() as cut:
        later(0, cut.cancel, "in time")
        await asyncio.Event().wait()
    cut.cancel("too late")
    for _ in range(3):
        await asyncio.sleep(0)
    assert (cut.reason, me().cancelling()) == ("in time", 0)


async def test_what_is_said_after_the_end_of_a_whole_block_changes_nothing() -> None:
    with CancelScope() as cut:
        pass
    cut.cancel("too late")
    await asyncio.sleep(0)
    assert (cut.reason, me().cancelling()) == (None, 0)


async def test_a_cancellation_from_elsewhere_passes() -> None:
    async def work() -> None:
        with CancelScope():
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.parametrize("order", ["cut, then cancelled", "cancelled, then cut"])
async def test_a_cancellation_from_elsewhere_passes_even_where_it_was_cut_too(order: str) -> None:
    cuts: list[CancelScope] = []

    async def work() -> None:
        with CancelScope() as cut:
            cuts.append(cut)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    acts: list[Callable[[], object]] = [lambda: cuts[0].cancel("why"), task.cancel]
    for act in acts if order.startswith("cut") else reversed(acts):
        act()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (cuts[0].reason, task.cancelling()) == ("why", 1)


async def test_an_error_of_the_block_passes_and_leaves_no_cancellation() -> None:
    """It was cut, but what it was doing failed while it ended."""
    cut = CancelScope()

    async def work() -> None:
        with cut:
            later(0, cut.cancel, "why")
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    await asyncio.sleep(0)
    assert (cut.reason, me().cancelling()) == ("why", 0)


async def test_the_inner_of_two_blocks_can_be_cut_and_the_outer_goes_on() -> None:
    with CancelScope() as outer:
        with CancelScope() as inner:
            later(0, inner.cancel, "inner")
            await asyncio.Event().wait()
        await asyncio.sleep(0)
    assert (inner.reason, outer.reason) == ("inner", None)


async def test_the_outer_of_two_blocks_can_be_cut_and_ends_both() -> None:
    with CancelScope() as outer:
        with CancelScope() as inner:
            later(0, outer.cancel, "outer")
            await asyncio.Event().wait()
        pytest.fail("the outer block went on")
    assert (inner.reason, outer.reason, me().cancelling()) == (None, "outer", 0)


async def test_both_of_two_blocks_can_be_cut_at_once() -> None:
    with CancelScope() as outer, CancelScope() as inner:
        later(0, inner.cancel, "inner")
        later(0, outer.cancel, "outer")
        await asyncio.Event().wait()
    await asyncio.sleep(0)
    assert (inner.reason, outer.reason, me().cancelling()) == ("inner", "outer", 0)


def test_inside_a_timeout_it_is_told_apart_which_came_first() -> None:
    async def cut_first() -> None:
        async with asyncio.timeout(2):
            with CancelScope() as cut:
                later(1, cut.cancel, "why")
                await asyncio.Event().wait()
            assert (cut.reason, at()) == ("why", 1)
            await asyncio.sleep(0.5)

    async def within_a_second(cut: CancelScope, seconds: float) -> None:
        async with asyncio.timeout(1):
            with cut:
                later(seconds, cut.cancel, "why")
                await asyncio.Event().wait()

    async def late_first() -> None:
        cut = CancelScope()
        with pytest.raises(TimeoutError):
            await within_a_second(cut, 2)
        assert (cut.reason, at()) == (None, 1)
        await asyncio.sleep(5)

    async def together() -> None:
        with pytest.raises(TimeoutError):
            await within_a_second(CancelScope(), 1)
        assert me().cancelling() == 0
        await asyncio.sleep(5)

    for scene in (cut_first, late_first, together):
        run(scene())


def test_around_a_timeout_it_is_told_apart_too() -> None:
    async def scene() -> None:
        with CancelScope() as cut:
            later(1, cut.cancel, "why")
            async with asyncio.timeout(2):
                await asyncio.Event().wait()
        assert (cut.reason, at(), me().cancelling()) == ("why", 1, 0)

    run(scene())


@dataclass
class Waiting:
    """What became of waiting: when it was over and for whom, and when there was a ping."""

    patience: StreamTimeouts
    out: list[tuple[float, str]] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)


@asynccontextmanager
async def waiting(
    *, first: float = 100, idle: float = 100, total: float = 1000, silent: float = 10_000
) -> AsyncIterator[Waiting]:
    """Until it is over, or 10,000 s have passed."""
    made: list[Waiting] = []
    over = asyncio.Event()

    def out(whom: str) -> None:
        made[0].out.append((at(), whom))
        over.set()

    def ping() -> None:
        made[0].pings.append(at())

    with StreamTimeouts(out, ping, first_s=first, idle_s=idle, total_s=total, ping_s=silent) as patience:
        made.append(Waiting(patience))
        patience.waiting_for = "them"
        yield made[0]
        await asyncio.wait([asyncio.ensure_future(over.wait())], timeout=10_000)
    await asyncio.sleep(100_000)


def plays(scene: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test whose time is virtual."""

    def test() -> None:
        run(scene())

    test.__name__, test.__doc__ = scene.__name__, scene.__doc__
    return test


@plays
async def test_whoever_does_not_begin_in_time_is_given_up() -> None:
    async with waiting(first=5, idle=1) as scene:
        pass
    assert scene.out == [(5, "them")]


@plays
async def test_after_the_first_sign_of_life_the_next_must_come_in_idle_time() -> None:
    async with waiting(first=5, idle=1) as scene:
        later(4, scene.patience.progress, "them")
        later(4.9, scene.patience.progress, "others")
    assert scene.out == [(5.9, "others")]


@plays
async def test_idle_time_is_short_from_the_first_sign_of_life_on_however_long_the_first_was_to_take() -> None:
    async with waiting(first=100, idle=1, silent=60) as scene:
        later(0.5, scene.patience.progress, "them")
    assert scene.out == [(1.5, "them")]


@plays
async def test_whoever_has_not_begun_has_as_long_again_as_for_the_beginning() -> None:
    """A model that thinks sends events, but says nothing."""
    async with waiting(first=20, idle=1) as scene:
        for second in (10, 25):
            later(second, lambda: scene.patience.progress("them", begun=False))
    assert scene.out == [(45, "them")]


@plays
async def test_everything_together_has_its_time_however_lively_it_is() -> None:
    async with waiting(first=5, idle=2, total=10) as scene:
        for second in range(1, 20):
            later(second, scene.patience.progress, "them")
    assert scene.out == [(10, "them")]


@plays
async def test_while_nothing_moves_there_are_pings_and_none_while_something_does() -> None:
    async with waiting(first=50, idle=22, silent=10) as scene:
        for second in (25, 30, 35, 40):
            later(second, scene.patience.progress, "them")
    assert (scene.pings, scene.out) == ([10, 20, 50, 60], [(62, "them")])


@plays
async def test_no_ping_comes_after_the_end() -> None:
    async with waiting(first=5, silent=1) as scene:
        pass
    assert scene.pings == [1, 2, 3, 4]


@plays
async def test_what_is_left_in_time_is_given_up_by_nobody() -> None:
    loop_out: list[str] = []
    with StreamTimeouts(loop_out.append, lambda: None, first_s=1, idle_s=1, total_s=1, ping_s=1) as patience:
        await asyncio.sleep(0.5)
    patience.end_within(0.1)
    patience.progress("them")
    await asyncio.sleep(100)
    assert loop_out == []


@plays
async def test_the_time_for_everything_can_be_made_shorter_but_not_longer() -> None:
    async with waiting(total=50) as scene:
        later(10, scene.patience.end_within, 7)
        later(11, scene.patience.end_within, 500)
        for second in range(1, 30):
            later(second, scene.patience.progress, "them")
    assert scene.out == [(17, "them")]


@plays
async def test_whoever_is_given_up_may_be_followed_by_others_who_are_given_up_in_turn() -> None:
    """However little, or much, is left of the time for everything."""
    for total, over in ((7, 7), (1000, 9)):
        out: list[tuple[float, str]] = []
        started = at()

        def given_up(whom: str, out: list[tuple[float, str]] = out, started: float = started) -> None:
            out.append((at() - started, whom))
            if whom == "them":
                patience.progress("others")
                patience.end_within(50)

        with StreamTimeouts(given_up, lambda: None, first_s=5, idle_s=4, total_s=total, ping_s=1000) as patience:
            patience.waiting_for = "them"
            await asyncio.sleep(100)
        assert out[:2] == [(5, "them"), (over, "others")]
