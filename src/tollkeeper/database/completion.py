"""Completes what must not be broken off."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def to_completion(work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for the work, also if the caller is cancelled meanwhile: then the cancellation is raised after its end."""
    task = asyncio.create_task(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        if not task.cancelled():
            task.exception()  # retrieved, so that it is not logged as lost
        raise cancellation
    return task.result()
