"""One thread for work on large inputs, which would keep the event loop from all other requests."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

LARGE_BYTES = 64 * 1024
"""An input of this size takes a millisecond or two. A larger one is worth the change of threads."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-inputs")


async def run_by_size(
    size: int, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call a function on an input of `size` bytes: at once if it is small, else in the thread. Raises what it raises.

    The thread and the event loop share Python's global lock. The thread gives it up every few milliseconds, but not
    within one call of C code.
    """
    if size <= LARGE_BYTES:
        return function(*args, **kwargs)
    context = copy_context()
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: context.run(function, *args, **kwargs))
