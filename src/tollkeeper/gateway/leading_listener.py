"""The listener of a streamed call whose answer other calls wait for."""

from collections.abc import Callable

from tollkeeper.gateway.cache_status import CacheStatus
from tollkeeper.gateway.cached_answer import CachedAnswer
from tollkeeper.gateway.listener import Listener
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.reservation import Reservation
from tollkeeper.response_cache.flights import Flight


class LeadingListener:
    """Passes the stream on to its `listener`, and records it if it `records`.

    When the client disconnects while calls of the `flight` wait, the stream goes on for these, until none waits.
    """

    def __init__(self, listener: Listener, flight: Flight[CachedAnswer], *, records: bool) -> None:
        self._listener = listener
        self._flight = flight
        self._records = records
        self.chunks: list[StreamChunk] = []
        self.cache_status: CacheStatus | None = listener.cache_status

    @property
    def left(self) -> bool:
        return self._listener.left and not self._flight.followers

    def attach(self, on_disconnect: Callable[[], None], reservation: Reservation) -> None:
        def disconnected() -> None:
            if self._flight.followers:
                self._flight.on_abandoned = on_disconnect
            else:
                on_disconnect()

        self._listener.attach(disconnected, reservation)

    async def deliver(self, chunk: StreamChunk) -> None:
        if self._records:
            self.chunks.append(chunk)
        if not self._listener.left:
            await self._listener.deliver(chunk)

    def ping(self) -> None:
        if not self._listener.left:
            self._listener.ping()
