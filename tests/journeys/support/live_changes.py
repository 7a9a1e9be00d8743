"""Waiting until a change that was made over the admin API is in force."""

import asyncio
from collections.abc import Awaitable, Callable

from support.deadlines import TEST_DEADLINE_S

POLL_S = 0.05


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as the condition holds. Fails if it does not in time."""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not await holds():
            await asyncio.sleep(POLL_S)
