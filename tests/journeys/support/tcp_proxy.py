"""A TCP proxy that a test can cut or stall, and servers that accept connections badly or not at all."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

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
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._forwards: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._fatal: bytes | None = None
        self._delay_s = 0.0
        self.broken = 0
        """How many connections `break_after` has broken."""

    async def restore(self) -> None:
        """Listen and forward again."""
        self._flowing.set()
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self._port), backlog=256)
            self._listener.setblocking(False)
            self._accepting = asyncio.create_task(self._accept(self._listener))

    async def cut(self) -> None:
        """Break all connections and refuse new ones."""
        if self._accepting is not None and self._listener is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._listener.close()
            self._listener = None
        for forwarding in self._forwards:
            forwarding.cancel()
        await asyncio.gather(*self._forwards, return_exceptions=True)

    def stall(self) -> None:
        """Keep all connections open, accept new ones, and forward nothing."""
        self._flowing.clear()

    async def switch(self, connect: Connect) -> None:
        """Break all connections, and lead new ones elsewhere."""
        listens = self._listener is not None
        await self.cut()
        self._connect = connect
        if listens:
            await self.restore()

    def delay(self, seconds: float) -> None:
        """Hold up what is forwarded by this time, in each direction."""
        self._delay_s = seconds

    def break_after(self, data: bytes) -> None:
        """Forward the next request that contains `data`, and break its connection before its response."""
        self._fatal = data

    async def _accept(self, listener: socket.socket) -> None:
        """An asyncio.Server loses the connections that it accepts while it is closed, with a warning."""
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            forwarding = asyncio.create_task(self._forward(accepted))
            self._forwards.add(forwarding)
            forwarding.add_done_callback(self._forwards.discard)
            forwarding.add_done_callback(partial(_close, accepted))  # also for one that never began

    async def _forward(self, accepted: socket.socket) -> None:
        ends: list[asyncio.StreamWriter] = []
        try:
            reader, writer = await asyncio.open_connection(sock=accepted)
            ends.append(writer)
            upstream_reader, upstream_writer = await self._connect()
            ends.append(upstream_writer)
            await asyncio.gather(
                self._pump(reader, upstream_writer, is_request=True),
                self._pump(upstream_reader, writer, is_request=False),
            )
        except OSError:
            pass
        finally:
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        """Forward one direction. Raises ConnectionResetError to break the connection in both directions."""
        while data := await reader.read(65_536):
            await self._flowing.wait()
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
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


def _close(accepted: socket.socket, _forwarding: asyncio.Task[None]) -> None:
    accepted.close()


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
