"""A server on loopback whose connections do what a test's script says."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from support.deadlines import TEST_DEADLINE_S


@dataclass(eq=False)
class Peer:
    """One connection of a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    async def request(self) -> bytes:
        """Receive a request, and return its body. Raises IncompleteReadError when the client closes the connection."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        return await self.reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))

    async def send(self, sent: bytes) -> None:
        self.writer.write(sent)
        await self.writer.drain()

    async def answer(self, body: bytes, *fields: bytes) -> None:
        await self.send(response(body, *fields))

    def reset(self) -> None:
        """Close the connection with RST."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def response(body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields, b"", body])


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class Server:
    """`open` are the connections that are open now, `accepted` is the number of all."""

    port: int = 0
    accepted: int = 0
    open: set[Peer] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def wait_until_closed(self) -> None:
        """Wait until the client has closed all connections."""
        while self.open:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Run the script for each connection, which is closed at its end."""
    served = Server()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.accepted += 1
        peer = Peer(reader, writer, served.accepted)
        served.open.add(peer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await script(peer)
        finally:
            served.open.discard(peer)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(TEST_DEADLINE_S):
            yield served
    finally:
        server.close()


async def echo(peer: Peer) -> None:
    """Answer each request with its own body."""
    while True:
        await peer.answer(await peer.request())
