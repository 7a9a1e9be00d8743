"""A provider's server on loopback that sends the same answer to every request and records the requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass
class ProviderServer:
    """`requests` are those received so far: path, headers and decoded body."""

    url: str
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)


@asynccontextmanager
async def serve_answer(answer: bytes, status: int = 200) -> AsyncIterator[ProviderServer]:
    provider_server = ProviderServer("")

    async def handle(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        provider_server.requests.append((request.path, headers, orjson.loads(await request.read() or b"{}")))
        return web.Response(body=answer, status=status, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        provider_server.url = str(server.make_url("/")).rstrip("/")
        yield provider_server
