"""A TCP proxy that a test can cut or stall, and servers that accept connections badly or not at all."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

STATEMENT_S = 0.2
"""Seconds in which a database on the same machine executes a statement."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


class TcpProxy:
    """Forwards a port of 127.0.0.1 to what `connect` opens. When cut, it refuses connections; when stalled, it accepts
    them and forwards nothing.
    """

    def __init__(self, port: int, connect: Connect) -> None:
        self._port = port
        self._connect = connect
        self._server: asyncio.Server | None = None
        self._forwards: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._fatal: bytes | None = None
        self.broken = 0
        """How many connections `break_after` has broken."""

    async def restore(self) -> None:
        """Listen and forward again."""
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, backlog=256)

    async def cut(self) -> None:
        """Break all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for forwarding in self._forwards:
            forwarding.cancel()
        await asyncio.gather(*self._forwards, return_exceptions=True)

    def stall(self) -> None:
        """Keep all connections open, accept new ones, and forward nothing."""
        self._flowing.clear()

    def break_after(self, data: bytes) -> None:
        """Forward the next request that contains `data`, and break its connection before its response."""
        self._fatal = data

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forwarding = asyncio.ensure_future(self._forward(reader, writer))
        self._forwards.add(forwarding)
        forwarding.add_done_callback(self._forwards.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await forwarding

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_writer: asyncio.StreamWriter | None = None
        try:
            upstream_reader, upstream_writer = await self._connect()
            await asyncio.gather(
                self._pump(reader, upstream_writer, is_request=True),
                self._pump(upstream_reader, writer, is_request=False),
            )
        except OSError:
            pass
        finally:
            for end in (writer, upstream_writer):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        """Forward one direction. Raises ConnectionResetError to break the connection in both directions."""
        while data := await reader.read(65_536):
            await self._flowing.wait()
            fatal = is_request and self._fatal is not None and self._fatal in data
            if fatal:
                self._fatal = None
                self._flowing.clear()
            writer.write(data)
            await writer.drain()
            if fatal:
                await asyncio.sleep(STATEMENT_S)
                self._flowing.set()
                self.broken += 1
                raise ConnectionResetError
        writer.close()


@asynccontextmanager
async def tcp_proxy(port: int, connect: Connect) -> AsyncIterator[TcpProxy]:
    """A proxy that forwards."""
    proxy = TcpProxy(port, connect)
    await proxy.restore()
    try:
        yield proxy
    finally:
        await proxy.cut()


@dataclass
class ResetCount:
    """Counts the connections that were reset."""

    connections: int = 0


@asynccontextmanager
async def resetting_server(port: int) -> AsyncIterator[ResetCount]:
    """A server that accepts each connection and resets it after 0.1 s, without reading."""
    count = ResetCount()

    async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count.connections += 1
        await asyncio.sleep(0.1)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", port)
    try:
        yield count
    finally:
        server.close()


@asynccontextmanager
async def unaccepting_server(port: int) -> AsyncIterator[None]:
    """A server with a full accept queue: a new connection gets no answer, as behind a firewall that drops packets."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0)
    clients = [socket.socket() for _ in range(4)]
    for one in clients:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
    await asyncio.sleep(0.05)
    try:
        yield
    finally:
        for one in (*clients, listener):
            one.close()
