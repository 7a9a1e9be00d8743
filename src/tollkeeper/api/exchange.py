"""One request and its response, as each wire format of callers implements it."""

from typing import Protocol

from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.results import CallResult
from tollkeeper.providers.base import StreamChunk


class Exchange(Protocol):
    """One request to a metered endpoint and its response. Rendering has no effect outside of the exchange.

    `call` is what the request asks for.
    """

    call: ModelCall

    @property
    def streamed(self) -> "StreamedExchange | None":
        """The exchange itself if its response is to be streamed, else None."""
        ...

    def render(self, result: CallResult) -> bytes:
        """The body of a response that is not streamed."""
        ...

    async def save(self, result: CallResult) -> None:
        """Store what must outlive the exchange. Called before the last part of the response is sent."""
        ...


class StreamedExchange(Exchange, Protocol):
    """An exchange whose response can be streamed."""

    def render_chunk(self, chunk: StreamChunk) -> bytes:
        """A part of the response; empty if the chunk has nothing for the client."""
        ...

    def render_end(self, result: CallResult) -> bytes:
        """The end of the response."""
        ...

    def render_error(self, error: TollkeeperError) -> bytes:
        """The end of a response that failed after its first chunk."""
        ...
