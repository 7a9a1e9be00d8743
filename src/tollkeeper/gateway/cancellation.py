"""Ending what a task is doing from outside, and for a reason: the line went dead, the time is up."""

import asyncio
from collections.abc import Callable
from types import TracebackType


class CancelScope:
    """A block that others can end. Whoever calls it first says why; afterwards `reason` tells.

    A cancellation that comes from elsewhere passes through. To be called by others than the task in the block.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    def __enter__(self) -> "CancelScope":
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        return self

    def __call__(self, reason: str) -> None:
        if self._task is not None and self.reason is None:
            self.reason = reason
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if self.reason is None or task is None:
            return False
        return task.uncancel() <= self._cancelling and kind is asyncio.CancelledError

    @property
    def over(self) -> bool:
        """Whether the block was left, so that there is nothing to end any more."""
        return self._task is None


def _nobody(*_: object) -> None:
    """Is told nothing."""


class StreamTimeouts:
    """How long to wait for someone. Calls `out` when that is over, with what `waiting_for` says at that time.

    `first_s` is for whoever has not begun yet, `idle_s` for each sign of life after that, `total_s` for everything.
    While nothing moves, `silent` is called every `silent_s` seconds. One timer, however many signs there are.
    """

    def __init__(
        self,
        out: Callable[[str], None],
        silent: Callable[[], None],
        *,
        first_s: float,
        idle_s: float,
        total_s: float,
        silent_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._out = out
        self._silent = silent
        self._first_s = first_s
        self._idle_s = idle_s
        self._silent_s = silent_s
        self.waiting_for = ""
        self._moved_at = self._spoke_at = now = self._loop.time()
        self._patient_s = first_s
        self._ends_at = now + total_s
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> "StreamTimeouts":
        self._arm()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._out, self._silent = _nobody, _nobody  # they may know of this, and a circle would outlive the call

    def moved(self, waiting_for: str, *, begun: bool = True) -> None:
        """A sign of life, who is to give the next one, and whether they have begun."""
        self._moved_at = self._loop.time()
        self._patient_s = self._idle_s if begun else self._first_s
        self.waiting_for = waiting_for

    def at_most(self, seconds: float) -> None:
        """From now on, everything has to be over in that time. Called out of patience, it is the time to wait on."""
        self._ends_at = min(self._ends_at, self._loop.time() + seconds)
        if self._timer is not None:
            self._timer.cancel()
            self._arm()

    def _arm(self) -> None:
        quiet_since = max(self._moved_at, self._spoke_at)
        due = min(self._ends_at, self._moved_at + self._patient_s, quiet_since + self._silent_s)
        due = min(due, self._loop.time() + self._idle_s)  # patience may become this short before the timer is due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._ends_at or now >= self._moved_at + self._patient_s:
            self._out(self.waiting_for)
            return
        if now >= max(self._moved_at, self._spoke_at) + self._silent_s:
            self._spoke_at = now
            self._silent()
        self._arm()
