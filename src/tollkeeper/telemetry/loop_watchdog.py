"""Logs what blocks the event loop, because a call that blocks it delays every request.

The loop stores the time of its last tick. A thread notices when a tick is late, and reads the stack of the loop's
thread while that is still in the call.
"""

import asyncio
import sys
import threading
import time
from collections import deque
from pathlib import PurePath
from types import FrameType

import structlog

TICK_S = 0.1
STALL_S = 0.25
"""The time without a tick that counts as a stall."""
POLL_S = 0.02
"""How often the thread looks during a stall whether it has ended."""
MAX_UNLOGGED_S = 10.0
"""A stall is logged when it ends; a longer one after this time."""
MAX_LINES_PER_MINUTE = 10
MAX_FRAMES = 12
"""Frames of the stack that are logged."""

log = structlog.get_logger("tollkeeper.loop")


class LoopWatchdog:
    """Watches the event loop that starts it. For a stall it logs one line, with the time between the two ticks and the
    stack, the innermost frame first. A suspended process counts as one stall. `stalls` and `stalled_s` are the number
    of stalls so far and their time in all, in seconds.
    """

    def __init__(self) -> None:
        self.stalls = 0
        self.stalled_s = 0.0
        self._ticked_at = 0.0
        self._loop_thread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._logged_at: deque[float] = deque(maxlen=MAX_LINES_PER_MINUTE)

    def start(self) -> None:
        """Start the ticks and the thread. Called on the event loop."""
        self._loop_thread = threading.get_ident()
        self._tick(asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._run, name="loop-watchdog", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the ticks and the thread."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticked_at = time.monotonic()
        self._timer = loop.call_later(TICK_S, self._tick, loop)

    def _run(self) -> None:
        while True:
            last = self._ticked_at
            if self._stopped.wait(max(0.0, last + STALL_S - time.monotonic())):
                return
            if self._ticked_at == last:
                self._watch_stall(last, _stack_of(self._loop_thread))

    def _watch_stall(self, last: float, stack: list[str]) -> None:
        """Wait until the loop ticks again, and log the stall once."""
        logged = False
        while self._ticked_at == last and not self._stopped.wait(POLL_S):
            if not logged and time.monotonic() - last > MAX_UNLOGGED_S:
                self._log(time.monotonic() - last, stack)
                logged = True
        self.stalls += 1
        self.stalled_s += time.monotonic() - last
        if not logged and self._ticked_at != last:
            self._log(self._ticked_at - last, stack)

    def _log(self, stalled_s: float, stack: list[str]) -> None:
        now = time.monotonic()
        if len(self._logged_at) == MAX_LINES_PER_MINUTE and now - self._logged_at[0] < 60:
            return
        self._logged_at.append(now)
        log.warning("loop.stalled", stalled_s=round(stalled_s, 3), stack=stack)


def _stack_of(thread: int) -> list[str]:
    """The innermost MAX_FRAMES frames of a thread, each as `file:function:line`."""
    frame: FrameType | None = sys._current_frames().get(thread)
    stack: list[str] = []
    while frame is not None and len(stack) < MAX_FRAMES:
        stack.append(f"{_relative_file(frame)}:{frame.f_code.co_qualname}:{frame.f_lineno}")
        frame = frame.f_back
    return stack


def _relative_file(frame: FrameType) -> str:
    """The file of a frame, relative to the folder that its package is in."""
    path = PurePath(frame.f_code.co_filename)
    depth = str(frame.f_globals.get("__name__", "")).count(".") + 1
    if path.name == "__init__.py":
        depth += 1
    return "/".join(path.parts[-depth:])
