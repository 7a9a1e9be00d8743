"""The thread for large inputs pauses as long as it works, so that the event loop has its turn."""

from types import SimpleNamespace

import pytest

from tollkeeper import worker_thread
from tollkeeper.worker_thread import LARGE_BYTES, MIN_WORK_SECONDS, pause, run_by_size


class WorkClock:
    """The time of the thread. It advances by work and by pauses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def work(self, seconds: float) -> None:
        self.now += seconds
        pause()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WorkClock:
    clock = WorkClock()
    module = SimpleNamespace(monotonic=lambda: clock.now, sleep=clock.sleep)
    monkeypatch.setattr(worker_thread, "time", module)
    return clock


async def test_the_thread_pauses_as_long_as_it_worked(clock: WorkClock) -> None:
    def work() -> None:
        clock.work(0.5)
        clock.work(MIN_WORK_SECONDS / 2)
        clock.work(MIN_WORK_SECONDS)

    await run_by_size(LARGE_BYTES + 1, work)

    assert clock.pauses == pytest.approx([0.5, MIN_WORK_SECONDS * 1.5])


async def test_the_thread_pauses_between_two_inputs(clock: WorkClock) -> None:
    def work() -> None:
        clock.now += 0.25

    await run_by_size(LARGE_BYTES + 1, work)
    await run_by_size(LARGE_BYTES + 1, work)

    assert clock.pauses == pytest.approx([0.25, 0.25])


async def test_the_event_loop_never_pauses(clock: WorkClock) -> None:
    await run_by_size(LARGE_BYTES, clock.work, 0.5)
    clock.work(0.5)

    assert clock.pauses == []


async def test_a_function_that_raises_is_followed_by_a_pause(clock: WorkClock) -> None:
    def fail() -> None:
        clock.now += 0.125
        raise ValueError

    with pytest.raises(ValueError):
        await run_by_size(LARGE_BYTES + 1, fail)

    assert clock.pauses == [0.125]
