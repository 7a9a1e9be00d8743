"""One thread for work on large inputs, which would keep the event loop from all other requests."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

LARGE_BYTES = 64 * 1024
"""An input of this size takes a millisecond or two. A larger one is worth the change of threads."""
MIN_WORK_SECONDS = 0.003
"""The thread works so long, or for one call of C code. Then it pauses for the same time."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-inputs")


class _Work(threading.local):
    """When the thread last paused; None in all other threads."""

    since: float | None = None


_work = _Work()


def pause() -> None:
    """Let the event loop run for a moment. Does nothing in another thread, or if the last pause was just before.

    Work on large inputs calls this between its slices, and before and after each long call of C code. To release the
    global lock is not enough: the event loop needs the lock several times for one request.
    """
    if _work.since is not None and (worked := time.monotonic() - _work.since) > MIN_WORK_SECONDS:
        time.sleep(worked)
        _work.since = time.monotonic()


async def run_by_size(
    size: int, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call a function on an input of `size` bytes: at once if it is small, else in the thread. Raises what it raises.

    The thread and the event loop share Python's global lock, and the thread keeps it during a call of C code. So a
    function that works on large inputs calls `pause` between its steps.
    """
    if size <= LARGE_BYTES:
        return function(*args, **kwargs)
    context = copy_context()

    def work() -> Result:
        _work.since = time.monotonic()
        try:
            return context.run(function, *args, **kwargs)
        finally:
            pause()

    return await asyncio.get_running_loop().run_in_executor(_thread, work)
