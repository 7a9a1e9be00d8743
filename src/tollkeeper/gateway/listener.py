"""What a stream needs of the connection to the client."""

from collections.abc import Callable
from typing import Protocol

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

    @property
    def left(self) -> bool:
        """Whether the client has disconnected."""
        ...
