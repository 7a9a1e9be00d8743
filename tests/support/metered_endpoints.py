"""Metered endpoints in front of a gateway with a real ledger, and requests to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from support.gateway import GatewayUnderTest, open_gateway
from tollkeeper import errors
from tollkeeper.api.body_budget import BodyBudget
from tollkeeper.api.compat.openai import CHAT_COMPLETIONS
from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import MeteredRouter
from tollkeeper.api.native.query import QUERY, STREAM
from tollkeeper.clock import SystemClock
from tollkeeper.dialects.sse import Splitter
from tollkeeper.gateway import attempts
from tollkeeper.principal import Access
from tollkeeper.rate_limits.throttle import Throttle

TOKEN = (b"authorization", b"Bearer good")
PROMPT = b'{"prompt": "hi"}'


@dataclass
class AsgiRequest:
    """One request, and the messages that were sent in response.

    The server receives `first_chunks` before `body`; if `body` is None, it receives nothing after them. Setting
    `disconnect` disconnects the client.
    """

    path: str
    body: bytes | None = PROMPT
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [TOKEN])
    method: str = "POST"
    first_chunks: list[bytes] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    disconnect: asyncio.Event = field(default_factory=asyncio.Event)
    body_was_read: bool = False

    async def receive(self) -> Message:
        if self.first_chunks:
            return {"type": "http.request", "body": self.first_chunks.pop(0), "more_body": True}
        if not self.body_was_read and self.body is not None:
            self.body_was_read = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.disconnect.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return cast(int, self.sent[0]["status"])

    @property
    def response_headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def document(self) -> Any:
        return orjson.loads(self.content)

    @property
    def events(self) -> list[Any]:
        """The decoded data of each event; `[DONE]` as it is."""
        found = Splitter().feed(self.content)
        return [event.data.decode() if event.data == b"[DONE]" else orjson.loads(event.data) for event in found]

    @property
    def is_complete(self) -> bool:
        return not self.sent[-1].get("more_body", False)


@dataclass
class EndpointsUnderTest:
    """/ai/query, /ai/stream and /v1/chat/completions. Any other path returns the status 418."""

    gateway: GatewayUnderTest
    services: SimpleNamespace
    router: MeteredRouter

    async def post(self, path: str, **fields: Any) -> AsgiRequest:
        return await self.send(AsgiRequest(path, **fields))

    async def send(self, request: AsgiRequest) -> AsgiRequest:
        scope = {"type": "http", "path": request.path, "method": request.method, "headers": request.headers}
        await self.router(scope, request.receive, request.send)
        return request


@asynccontextmanager
async def open_endpoints(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EndpointsUnderTest]:
    """The endpoints for one user, whose token is `good`, with 20 requests a minute."""
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_gateway(sqlite_url) as gateway:

        async def verify(token: str, access: Access, _address: str) -> object:
            if token != "good" or access is not Access.AI:
                raise errors.Unauthenticated
            return gateway.caller

        throttle = Throttle(login="off", ai="20/minute", clock=SystemClock())
        authenticator = SimpleNamespace(verify=verify, costs_a_lookup=lambda _: False, forget=lambda _: None)
        services = SimpleNamespace(
            gateway=gateway.inner,
            call_events=gateway.events,
            authenticator=authenticator,
            throttle=throttle,
            clock=SystemClock(),
        )

        async def other_routes(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 418, "headers": []})

        router = MeteredRouter(
            other_routes, (QUERY, STREAM, CHAT_COMPLETIONS), lambda: cast(Services, services), BodyBudget()
        )
        yield EndpointsUnderTest(gateway, services, router)


def headers_with_key(*keys: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a request with these idempotency keys."""
    return [TOKEN, *((b"idempotency-key", key) for key in keys)]
