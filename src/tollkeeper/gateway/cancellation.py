"""Ending what a task does from outside, for a reason; and the timeouts of a stream, which do so."""

import asyncio
from collections.abc import Callable
from types import TracebackType

MAX_LATE_S = 0.5
"""A timer that is later than this was late because the event loop was stalled. So much time is left afterwards."""


class CancelScope:
    """A block that others can cancel. The first call of `cancel` sets the `reason`.

    A cancellation of the task itself passes through. Only other tasks and callbacks may call `cancel`.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling_before = 0

    def __enter__(self) -> "CancelScope":
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling_before = self._task.cancelling()
        return self

    def cancel(self, reason: str) -> None:
        """End the block. Does nothing before it is entered, after it was left, and the second time."""
        if self._task is not None and self.reason is None:
            self.reason = reason
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if self.reason is None or task is None:
            return False
        return task.uncancel() <= self._cancelling_before and kind is asyncio.CancelledError

    @property
    def left(self) -> bool:
        """Whether the task is not in the block, so that there is nothing to cancel."""
        return self._task is None


def _ignore(*_: object) -> None:
    """Do nothing."""


class StreamTimeouts:
    """The timeouts of one stream. When one expires, `on_timeout` is called with the current `waiting_for`.

    `first_s` applies until the first progress, `idle_s` between two signs of progress, `total_s` to everything. While
    the client receives nothing, `on_silence` is called every `ping_s` seconds. All of it takes one timer, however much
    progress there is. If the event loop was stalled, what arrived meanwhile is read before a timeout expires.
    """

    def __init__(
        self,
        on_timeout: Callable[[str], None],
        on_silence: Callable[[], None],
        *,
        first_s: float,
        idle_s: float,
        total_s: float,
        ping_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_timeout = on_timeout
        self._on_silence = on_silence
        self._first_s = first_s
        self._idle_s = idle_s
        self._ping_s = ping_s
        self.waiting_for = ""
        self._progress_at = self._heard_at = now = self._loop.time()
        self._timeout_s = first_s
        self._paused = False
        self._ends_at = now + total_s
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> "StreamTimeouts":
        self._arm()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # They may refer to this object: no cycle outlives the call.
        self._on_timeout, self._on_silence = _ignore, _ignore

    def progress(self, waiting_for: str, *, begun: bool = True, delivered: bool = True) -> None:
        """There was progress. The next is expected of `waiting_for`, within `idle_s` once the answer has `begun`.

        `delivered`: the client received something of it.
        """
        self._progress_at = self._loop.time()
        if delivered:
            self._heard_at = self._progress_at
        self._timeout_s = self._idle_s if begun else self._first_s
        self._paused = False
        self.waiting_for = waiting_for

    def pause(self) -> None:
        """No side has to make progress until the next call of `progress`. Only `total_s` goes on."""
        self._paused = True

    def end_within(self, seconds: float) -> None:
        """From now on, everything must end within that time. Called by `on_timeout`, it sets the time to wait on."""
        self._ends_at = min(self._ends_at, self._loop.time() + seconds)
        if self._timer is not None:
            self._timer.cancel()
            self._arm()

    def _arm(self) -> None:
        due = min(self._ends_at, self._progress_at + self._timeout_s, self._heard_at + self._ping_s)
        due = min(due, self._loop.time() + self._idle_s)  # the timeout may become this short before the timer is due
        self._timer = self._loop.call_at(due, self._check, due)

    def _check(self, due: float) -> None:
        now = self._loop.time()
        if self._paused:
            self._progress_at = now
        elif now - due > MAX_LATE_S:
            self._progress_at = max(self._progress_at, now - self._timeout_s + MAX_LATE_S)
        if now >= self._ends_at or now >= self._progress_at + self._timeout_s:
            self._on_timeout(self.waiting_for)
            return
        if now >= self._heard_at + self._ping_s:
            self._heard_at = now
            self._on_silence()
        self._arm()
