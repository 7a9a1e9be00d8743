"""An HTTP endpoint of an operator, which keeps what is posted to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Collector:
    """Keeps what is posted to it."""

    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.headers.append(dict(request.headers))
        return web.Response()


@asynccontextmanager
async def collecting(port: int, path: str) -> AsyncIterator[Collector]:
    """A collector that listens on this port of 127.0.0.1."""
    collector = Collector()
    app = web.Application(client_max_size=10**8)
    app.router.add_post(path, collector.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield collector
    finally:
        await runner.cleanup()
