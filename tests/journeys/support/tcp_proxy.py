"""A line between two programs that a test can cut: a TCP forwarder, or what is there instead of one."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

LONG_ENOUGH_S = 0.2
"""For a database on the same machine to act on what it was told."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


class Line:
    """Forwards a port of 127.0.0.1 to where `connect` leads. Cut, it refuses; stalled, it takes and gives nothing."""

    def __init__(self, port: int, connect: Connect) -> None:
        self._port = port
        self._connect = connect
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._fatal: bytes | None = None
        self.broken = 0
        """How often a connection was broken by `break_after`."""

    async def restore(self) -> None:
        """Listen, and forward."""
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, backlog=256)

    async def cut(self) -> None:
        """Break every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def stall(self) -> None:
        """Keep every connection, accept new ones, and let nothing through."""
        self._flowing.clear()

    def break_after(self, words: bytes) -> None:
        """Let the next request with these words through, and break its connection before the answer comes back."""
        self._fatal = words

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.ensure_future(self._forward(reader, writer))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await call

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await self._connect()
            await asyncio.gather(self._pump(reader, there, asking=True), self._pump(back, writer, asking=False))
        except OSError:
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asking: bool) -> None:
        """Raises ConnectionResetError to break the connection, so that nothing goes on in the other direction."""
        while data := await reader.read(65_536):
            await self._flowing.wait()
            fatal = asking and self._fatal is not None and self._fatal in data
            if fatal:
                self._fatal = None
                self._flowing.clear()
            writer.write(data)
            await writer.drain()
            if fatal:
                await asyncio.sleep(LONG_ENOUGH_S)
                self._flowing.set()
                self.broken += 1
                raise ConnectionResetError
        writer.close()


@asynccontextmanager
async def line(port: int, connect: Connect) -> AsyncIterator[Line]:
    """A line in working order."""
    made = Line(port, connect)
    await made.restore()
    try:
        yield made
    finally:
        await made.cut()


@dataclass
class Resetting:
    """How many connections were reset."""

    connections: int = 0


@asynccontextmanager
async def resets(port: int) -> AsyncIterator[Resetting]:
    """Someone who takes every connection and resets it a moment later, without having read anything."""
    made = Resetting()

    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        await asyncio.sleep(0.1)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", port)
    try:
        yield made
    finally:
        server.close()


@asynccontextmanager
async def deaf(port: int) -> AsyncIterator[None]:
    """Someone whose queue is full: a new connection gets no answer at all, as behind a firewall that drops."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
    await asyncio.sleep(0.05)
    try:
        yield
    finally:
        for one in (*waiting, listening):
            one.close()
