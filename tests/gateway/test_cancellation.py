"""Cancel scopes and the deadlines of a stream. Time is virtual in the tests that wait: `now_s` returns it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.virtual_time import VirtualLoop, run
from tollkeeper.gateway.cancellation import CancelScope, StreamTimeouts


def now_s() -> float:
    return round(asyncio.get_running_loop().time(), 6)


def call_later(seconds: float, call: Callable[..., object], *arguments: Any) -> None:
    asyncio.get_running_loop().call_later(seconds, call, *arguments)


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def test_a_block_that_is_not_cancelled_runs_to_its_end() -> None:
    with CancelScope() as scope:
        await asyncio.sleep(0)
    assert (scope.reason, scope.left, this_task().cancelling()) == (None, True, 0)


async def test_the_first_cancellation_gives_the_reason() -> None:
    with CancelScope() as scope:
        assert not scope.left
        call_later(0, scope.cancel, "first")
        call_later(0, scope.cancel, "second")
        await asyncio.Event().wait()
        pytest.fail("the block went on")
    assert (scope.reason, this_task().cancelling()) == ("first", 0)


async def test_nothing_is_cancelled_after_the_block() -> None:
    """Neither by a cancellation in time, nor by one that is too late."""
    with CancelScope() as scope:
        call_later(0, scope.cancel, "in time")
        await asyncio.Event().wait()
    scope.cancel("too late")
    for _ in range(3):
        await asyncio.sleep(0)
    assert (scope.reason, this_task().cancelling()) == ("in time", 0)


async def test_a_cancellation_after_the_end_of_the_block_changes_nothing() -> None:
    with CancelScope() as scope:
        pass
    scope.cancel("too late")
    await asyncio.sleep(0)
    assert (scope.reason, this_task().cancelling()) == (None, 0)


async def test_a_cancellation_of_the_task_propagates() -> None:
    async def work() -> None:
        with CancelScope():
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.parametrize("order", ["scope, then task", "task, then scope"])
async def test_a_cancellation_of_the_task_propagates_even_if_the_scope_is_cancelled_too(order: str) -> None:
    scopes: list[CancelScope] = []

    async def work() -> None:
        with CancelScope() as scope:
            scopes.append(scope)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    acts: list[Callable[[], object]] = [lambda: scopes[0].cancel("why"), task.cancel]
    for act in acts if order.startswith("scope") else reversed(acts):
        act()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (scopes[0].reason, task.cancelling()) == ("why", 1)


async def test_an_error_of_the_block_propagates_and_leaves_no_cancellation() -> None:
    """The scope was cancelled, but the block raised another error while it ended."""
    scope = CancelScope()

    async def work() -> None:
        with scope:
            call_later(0, scope.cancel, "why")
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    await asyncio.sleep(0)
    assert (scope.reason, this_task().cancelling()) == ("why", 0)


async def test_cancelling_the_inner_scope_leaves_the_outer_one_running() -> None:
    with CancelScope() as outer:
        with CancelScope() as inner:
            call_later(0, inner.cancel, "inner")
            await asyncio.Event().wait()
        await asyncio.sleep(0)
    assert (inner.reason, outer.reason) == ("inner", None)


async def test_cancelling_the_outer_scope_ends_both() -> None:
    with CancelScope() as outer:
        with CancelScope() as inner:
            call_later(0, outer.cancel, "outer")
            await asyncio.Event().wait()
        pytest.fail("the outer block went on")
    assert (inner.reason, outer.reason, this_task().cancelling()) == (None, "outer", 0)


async def test_two_nested_scopes_can_be_cancelled_together() -> None:
    with CancelScope() as outer, CancelScope() as inner:
        call_later(0, inner.cancel, "inner")
        call_later(0, outer.cancel, "outer")
        await asyncio.Event().wait()
    await asyncio.sleep(0)
    assert (inner.reason, outer.reason, this_task().cancelling()) == ("inner", "outer", 0)


def test_a_scope_inside_a_timeout_distinguishes_the_two() -> None:
    async def scope_first() -> None:
        async with asyncio.timeout(2):
            with CancelScope() as scope:
                call_later(1, scope.cancel, "why")
                await asyncio.Event().wait()
            assert (scope.reason, now_s()) == ("why", 1)
            await asyncio.sleep(0.5)

    async def with_timeout(scope: CancelScope, seconds: float) -> None:
        async with asyncio.timeout(1):
            with scope:
                call_later(seconds, scope.cancel, "why")
                await asyncio.Event().wait()

    async def timeout_first() -> None:
        scope = CancelScope()
        with pytest.raises(TimeoutError):
            await with_timeout(scope, 2)
        assert (scope.reason, now_s()) == (None, 1)
        await asyncio.sleep(5)

    async def together() -> None:
        with pytest.raises(TimeoutError):
            await with_timeout(CancelScope(), 1)
        assert this_task().cancelling() == 0
        await asyncio.sleep(5)

    for scene in (scope_first, timeout_first, together):
        run(scene())


def test_a_scope_around_a_timeout_distinguishes_the_two() -> None:
    async def scene() -> None:
        with CancelScope() as scope:
            call_later(1, scope.cancel, "why")
            async with asyncio.timeout(2):
                await asyncio.Event().wait()
        assert (scope.reason, now_s(), this_task().cancelling()) == ("why", 1, 0)

    run(scene())


@dataclass
class TimeoutRecord:
    """When a deadline expired and for which side, and when there were pings. In seconds."""

    timeouts: StreamTimeouts
    expired: list[tuple[float, str]] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)


@asynccontextmanager
async def record_timeouts(
    *, first: float = 100, idle: float = 100, total: float = 1000, silent: float = 10_000
) -> AsyncIterator[TimeoutRecord]:
    """Wait until a deadline expires, or for 10,000 s."""
    opened: list[TimeoutRecord] = []
    over = asyncio.Event()

    def expired(waiting_for: str) -> None:
        opened[0].expired.append((now_s(), waiting_for))
        over.set()

    def ping() -> None:
        opened[0].pings.append(now_s())

    with StreamTimeouts(expired, ping, first_s=first, idle_s=idle, total_s=total, ping_s=silent) as timeouts:
        opened.append(TimeoutRecord(timeouts))
        timeouts.waiting_for = "provider"
        yield opened[0]
        await asyncio.wait([asyncio.ensure_future(over.wait())], timeout=10_000)
    await asyncio.sleep(100_000)


def in_virtual_time(scene: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test with virtual time."""

    def test() -> None:
        run(scene())

    test.__name__, test.__doc__ = scene.__name__, scene.__doc__
    return test


@in_virtual_time
async def test_a_side_that_does_not_begin_in_time_expires() -> None:
    async with record_timeouts(first=5, idle=1) as scene:
        pass
    assert scene.expired == [(5, "provider")]


@in_virtual_time
async def test_after_the_first_progress_the_next_must_follow_within_the_idle_time() -> None:
    async with record_timeouts(first=5, idle=1) as scene:
        call_later(4, scene.timeouts.progress, "provider")
        call_later(4.9, scene.timeouts.progress, "listener")
    assert scene.expired == [(5.9, "listener")]


@in_virtual_time
async def test_the_idle_time_applies_from_the_first_progress_on() -> None:
    async with record_timeouts(first=100, idle=1, silent=60) as scene:
        call_later(0.5, scene.timeouts.progress, "provider")
    assert scene.expired == [(1.5, "provider")]


@in_virtual_time
async def test_progress_before_the_beginning_restarts_the_first_deadline() -> None:
    """A model that thinks may send events for minutes before its first output."""
    async with record_timeouts(first=20, idle=1) as scene:
        for second in (10, 25):
            call_later(second, lambda: scene.timeouts.progress("provider", begun=False))
    assert scene.expired == [(45, "provider")]


@in_virtual_time
async def test_the_total_time_expires_despite_progress() -> None:
    async with record_timeouts(first=5, idle=2, total=10) as scene:
        for second in range(1, 20):
            call_later(second, scene.timeouts.progress, "provider")
    assert scene.expired == [(10, "provider")]


@in_virtual_time
async def test_a_pause_lasts_until_the_next_progress() -> None:
    async with record_timeouts(first=5, idle=2) as scene:
        call_later(4, scene.timeouts.pause)
        call_later(60, scene.timeouts.progress, "provider")
    assert scene.expired == [(62, "provider")]


@in_virtual_time
async def test_the_total_time_expires_in_a_pause_and_the_client_receives_pings() -> None:
    async with record_timeouts(first=5, total=50, silent=20) as scene:
        scene.timeouts.pause()
    assert (scene.pings, scene.expired) == ([20, 40], [(50, "provider")])


def stall(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.stall(seconds)


@in_virtual_time
async def test_what_arrived_while_the_loop_was_stalled_is_progress() -> None:
    async with record_timeouts(first=5, idle=1) as scene:
        call_later(4, stall, 10)
        call_later(14.1, scene.timeouts.progress, "provider")
    assert scene.expired == [(15.1, "provider")]


@in_virtual_time
async def test_after_a_stall_a_silent_side_expires() -> None:
    async with record_timeouts(first=5, idle=1) as scene:
        call_later(4, stall, 10)
    assert scene.expired == [(14.5, "provider")]


@in_virtual_time
async def test_there_are_pings_only_while_there_is_no_progress() -> None:
    async with record_timeouts(first=50, idle=22, silent=10) as scene:
        for second in (25, 30, 35, 40):
            call_later(second, scene.timeouts.progress, "provider")
    assert (scene.pings, scene.expired) == ([10, 20, 50, 60], [(62, "provider")])


@in_virtual_time
async def test_there_is_no_ping_after_the_end() -> None:
    async with record_timeouts(first=5, silent=1) as scene:
        pass
    assert scene.pings == [1, 2, 3, 4]


@in_virtual_time
async def test_nothing_expires_after_the_block_was_left_in_time() -> None:
    loop_out: list[str] = []
    with StreamTimeouts(loop_out.append, lambda: None, first_s=1, idle_s=1, total_s=1, ping_s=1) as timeouts:
        await asyncio.sleep(0.5)
    timeouts.end_within(0.1)
    timeouts.progress("provider")
    await asyncio.sleep(100)
    assert loop_out == []


@in_virtual_time
async def test_the_total_time_can_be_shortened_but_not_extended() -> None:
    async with record_timeouts(total=50) as scene:
        call_later(10, scene.timeouts.end_within, 7)
        call_later(11, scene.timeouts.end_within, 500)
        for second in range(1, 30):
            call_later(second, scene.timeouts.progress, "provider")
    assert scene.expired == [(17, "provider")]


@in_virtual_time
async def test_after_one_side_expired_the_other_can_expire_too() -> None:
    """Whether little or much is left of the total time."""
    for total, over in ((7, 7), (1000, 9)):
        expired: list[tuple[float, str]] = []
        started = now_s()

        def given_up(waiting_for: str, expired: list[tuple[float, str]] = expired, started: float = started) -> None:
            expired.append((now_s() - started, waiting_for))
            if waiting_for == "provider":
                timeouts.progress("listener")
                timeouts.end_within(50)

        with StreamTimeouts(given_up, lambda: None, first_s=5, idle_s=4, total_s=total, ping_s=1000) as timeouts:
            timeouts.waiting_for = "provider"
            await asyncio.sleep(100)
        assert expired[:2] == [(5, "provider"), (over, "listener")]
