"""What a stream needs of the connection to the client."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from tollkeeper.gateway.cache_status import CacheStatus
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.reservation import Reservation


class Listener(Protocol):
    """Delivers a streamed answer to the client. None of its methods may raise."""

    def attach(self, on_disconnect: Callable[[], None], reservation: Reservation) -> None:
        """An attempt begins. The listener must call `on_disconnect` when the client disconnects."""
        ...

    async def deliver(self, chunk: StreamChunk) -> None:
        """Send a chunk; returns when the client has taken it."""
        ...

    def ping(self) -> None:
        """Send a sign of life: nothing has been received from the provider for a while."""
        ...

    cache_status: CacheStatus | None
    """Set before the first chunk, if the call may be answered from the cache."""

    @property
    def left(self) -> bool:
        """Whether the client has disconnected."""
        ...


class PassingListener:
    """Passes a stream on to its `listener`. Subclasses change what is delivered."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    @property
    def left(self) -> bool:
        return self._listener.left

    @property
    def cache_status(self) -> CacheStatus | None:
        return self._listener.cache_status

    @cache_status.setter
    def cache_status(self, status: CacheStatus | None) -> None:
        self._listener.cache_status = status

    def attach(self, on_disconnect: Callable[[], None], reservation: Reservation) -> None:
        self._listener.attach(on_disconnect, reservation)

    def ping(self) -> None:
        self._listener.ping()


@contextmanager
def kept_alive(listener: Listener | None, ping_s: float) -> Iterator[None]:
    """Send the client, if there is one, a sign of life each `ping_s` seconds for the length of the block."""
    if listener is None:
        yield
        return
    task = asyncio.create_task(_ping(listener, ping_s))
    try:
        yield
    finally:
        task.cancel()


async def _ping(listener: Listener, ping_s: float) -> None:
    while True:
        await asyncio.sleep(ping_s)
        listener.ping()
