"""A server on loopback that answers as it is told, and keeps what it was asked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass
class Listener:
    """`asked` are the requests so far: path, headers and body."""

    url: str
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)


@asynccontextmanager
async def listening(answer: bytes, status: int = 200) -> AsyncIterator[Listener]:
    """Every request has the same answer."""
    listener = Listener("")

    async def handle(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        listener.asked.append((request.path, headers, orjson.loads(await request.read() or b"{}")))
        return web.Response(body=answer, status=status, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        listener.url = str(server.make_url("/")).rstrip("/")
        yield listener
