"""A load balancer that sends new connections to the servers that are ready, and looks at `/health/ready` for that."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count

import aiohttp

from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.tcp_proxy import Streams, TcpProxy, tcp_proxy

POLL_S = 0.05


class Balancer:
    """`url` is its own; `ready` are the servers that get new connections at present."""

    def __init__(self, servers: Sequence[Server], port: int) -> None:
        self._servers = servers
        self._turns = count()
        self.ready: list[Server] = []
        self.url = f"http://127.0.0.1:{port}"
        self.proxy: TcpProxy | None = None

    async def connect(self) -> Streams:
        """Open a connection to one of the servers that are ready. Raises OSError if there is none."""
        if not self.ready:
            raise ConnectionRefusedError
        server = self.ready[next(self._turns) % len(self.ready)]
        return await asyncio.open_connection(server.address, server.port)

    async def watch(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            while True:
                states = await asyncio.gather(*(_is_ready(http, server) for server in self._servers))
                self.ready = [server for server, state in zip(self._servers, states, strict=True) if state]
                await asyncio.sleep(POLL_S)


async def _is_ready(http: aiohttp.ClientSession, server: Server) -> bool:
    with suppress(aiohttp.ClientError, TimeoutError):
        async with http.get(f"{server.url}/health/ready") as response:
            return response.status == 200
    return False


@asynccontextmanager
async def balancer(servers: Sequence[Server]) -> AsyncIterator[Balancer]:
    port = ReservedPort()
    made = Balancer(servers, port.number)
    watching = asyncio.create_task(made.watch())
    try:
        async with tcp_proxy(port.number, made.connect):
            yield made
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        port.free()
