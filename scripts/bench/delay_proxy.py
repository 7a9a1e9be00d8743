"""A TCP proxy on 127.0.0.1 that delivers everything later: `delay_proxy.py PORT SOCKET DELAY_MS`.

Each direction is delayed by DELAY_MS, so a round trip takes twice that longer. Data that follows other data is delayed
from its own arrival: nothing waits for the data before it. The server is behind the Unix socket SOCKET.
"""

import asyncio
import selectors
import sys
from collections import deque
from typing import cast


class Direction(asyncio.Protocol):
    """The receiving end of one connection. It delivers to `destination` what it received, `delay_s` later."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes]] = deque()
        self.destination: asyncio.WriteTransport | None = None

    def data_received(self, data: bytes) -> None:
        self._enqueue(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.destination is not None:
            self._enqueue(b"")

    def _enqueue(self, data: bytes) -> None:
        due = self._loop.time() + self._delay_s
        self._waiting.append((due, data))
        if len(self._waiting) == 1:
            self._loop.call_at(due, self._deliver)

    def _deliver(self) -> None:
        """Deliver what is due; after the end of the connection, close the other one."""
        assert self.destination is not None
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _, data = self._waiting.popleft()
            if data:
                self.destination.write(data)
            else:
                self.destination.close()
        if self._waiting:
            self._loop.call_at(self._waiting[0][0], self._deliver)


async def start_proxy(port: int, socket: str, delay_s: float) -> asyncio.Server:
    """Listen on 127.0.0.1. `port` 0 is any free one. Returns the server that listens."""

    async def connect(client: asyncio.WriteTransport, from_client: Direction) -> None:
        try:
            server, from_server = await loop.create_unix_connection(lambda: Direction(delay_s), socket)
        except OSError:
            client.abort()
            return
        from_client.destination, from_server.destination = server, client
        cast(asyncio.ReadTransport, client).resume_reading()

    class _Client(Direction):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            cast(asyncio.ReadTransport, transport).pause_reading()
            task = loop.create_task(connect(cast(asyncio.WriteTransport, transport), self))
            connecting.add(task)
            task.add_done_callback(connecting.discard)

    loop = asyncio.get_running_loop()
    connecting: set[asyncio.Task[None]] = set()
    return await loop.create_server(lambda: _Client(delay_s), "127.0.0.1", port)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Returns a loop whose timers are precise: epoll's and uvloop's are rounded up to whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _serve(port: int, socket: str, delay_s: float) -> None:
    await (await start_proxy(port, socket, delay_s)).serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]) / 1e3))
