"""A connection of our client without a network: bytes go in, the outcome of its response comes out."""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

from tollkeeper.providers.http.base import HttpError
from tollkeeper.providers.http.connection import Connection
from tollkeeper.providers.http.response_head import ResponseHead


class FakeTransport(asyncio.Transport):
    """Records what is written. `closed` is set by `close` and `abort`."""

    def __init__(self, pair: socket.socket) -> None:
        super().__init__({"socket": pair})
        self.written = b""
        self.closed = self.paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 1

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Outcome(NamedTuple):
    """`kind` is the error's, or empty. `kept`: the connection can have another request."""

    status: int
    body: bytes
    kind: str
    kept: bool


async def receive(blocks: Iterable[bytes], *, ends: bool = True) -> Outcome:
    """Send one request and receive these blocks, and then the end of the connection if it `ends`."""
    ours, theirs = socket.socketpair()
    kept: list[Connection] = []

    def keep(connection: Connection, head: ResponseHead) -> None:
        kept.append(connection)

    connection = Connection(keep, lambda _: None)
    transport = FakeTransport(ours)
    connection.connection_made(transport)
    response = connection.send(b"POST / HTTP/1.1\r\n\r\n", b"", max_bytes=1_000_000)
    for block in blocks:
        if not transport.closed:
            connection.data_received(block)
    was_kept = bool(kept) and connection.is_free
    if ends:
        connection.connection_lost(None)
    status, body, kind = 0, b"", ""
    try:
        async with asyncio.timeout(0):
            await response.start()
            status = response.status
            body = await response.whole()
    except (HttpError, TimeoutError) as error:
        kind = type(error).__name__
    ours.close()
    theirs.close()
    return Outcome(status, body, kind, was_kept)


def outcome_of(blocks: Iterable[bytes], *, ends: bool = True) -> Outcome:
    """As `receive`, in an event loop of its own."""
    return asyncio.run(receive(blocks, ends=ends))
