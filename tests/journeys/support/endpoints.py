"""Every metered door as a caller meets it: how it is called, heard piece by piece, and left."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
from aiohttp.connector import AddrInfoType

from journeys.support.client_formats import (
    SECRET,
    Body,
    Chat,
    Dialect,
    Embeddings,
    Event,
    Frames,
    Messages,
    Native,
    NativeChat,
    Responses,
    Said,
    events_in,
)
from journeys.support.users import Person
from patience import PATIENCE_S

SMALL_BUFFER = 4096
"""Bytes that a client takes off the line when nobody reads."""


@dataclass(frozen=True, slots=True)
class Door:
    """One way in. `extra` is what the body says besides."""

    name: str
    path: str
    dialect: Dialect
    streams: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_socket(self) -> bool:
        return self.path == "/ai/ws"

    @property
    def writes(self) -> bool:
        """Whether what it brings is text, and not numbers."""
        return self.path != "/v1/embeddings"

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return self.dialect.body(prompt, model, limit) | dict(self.extra)


SSE = {"stream": True}
STREAM = Door("stream", "/ai/stream", Native(), streams=True)
SOCKET = Door("ws", "/ai/ws", Frames(), streams=True)
EMBEDDINGS = Door("embeddings", "/v1/embeddings", Embeddings())
WHOLE = (
    Door("query", "/ai/query", Native()),
    Door("chat", "/ai/chat", NativeChat()),
    Door("chat-completions", "/v1/chat/completions", Chat()),
    Door("responses", "/v1/responses", Responses()),
    Door("messages", "/v1/messages", Messages()),
)
STREAMED = (
    STREAM,
    Door("chat-sse", "/ai/chat", NativeChat(), streams=True, extra=SSE),
    SOCKET,
    Door("chat-completions-sse", "/v1/chat/completions", Chat(), streams=True, extra=SSE),
    Door("responses-sse", "/v1/responses", Responses(), streams=True, extra=SSE),
    Door("messages-sse", "/v1/messages", Messages(), streams=True, extra=SSE),
)
DOORS = (*WHOLE, *STREAMED, EMBEDDINGS)


class Call:
    """One call, under way. `status` and `headers` are there as soon as it is answered; over a WebSocket there are none
    but those of an error.
    """

    def __init__(self, door: Door) -> None:
        self.door = door
        self.said = Said()
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.raw = b""
        self.code: str | None = None
        """What went wrong before anything was said."""
        self.closed: int | None = None
        """The code with which a WebSocket was closed by the server."""

    async def hear(self, words: int) -> None:
        """Listen until so many words were said."""
        async with asyncio.timeout(PATIENCE_S):
            while self.said.words < words:
                assert await self._more(), f"it ended with {self.raw!r}"

    async def rest(self) -> "Call":
        """Listen to the end."""
        async with asyncio.timeout(PATIENCE_S):
            while await self._more():
                pass
        assert SECRET.encode() not in self.raw
        assert SECRET not in str(self.headers)
        return self

    async def hang_up(self) -> None:
        raise NotImplementedError

    async def _more(self) -> bool:
        """Hear some more; False when it is over."""
        raise NotImplementedError


class _HttpCall(Call):
    def __init__(self, door: Door, response: aiohttp.ClientResponse) -> None:
        super().__init__(door)
        self._response = response
        self._heard = 0
        self.status, self.headers = response.status, response.headers
        self._streaming = response.headers["Content-Type"] == "text/event-stream"

    async def _more(self) -> bool:
        block = await self._response.content.readany()
        self.raw += block
        if self._streaming:
            events = list(events_in(self.raw))
            for event in events[self._heard :]:
                self.door.dialect.hear(event, self.said)
            self._heard = len(events)
        elif not block:
            self._read(json.loads(self.raw))
        return bool(block)

    def _read(self, document: Body) -> None:
        if self.status == 200:
            assert not self.door.streams, self.raw
            self.said = self.door.dialect.whole(document)
        else:
            self.code = self.door.dialect.code(document, self.headers)

    async def hang_up(self) -> None:
        self._response.close()


class _SocketCall(Call):
    def __init__(self, door: Door, socket: aiohttp.ClientWebSocketResponse) -> None:
        super().__init__(door)
        self._socket = socket
        self.status = 200

    async def _more(self) -> bool:
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            self.closed = self._socket.close_code
            return False
        self.raw += message.data.encode() + b"\n"
        event = Event("", message.data)
        self.door.dialect.hear(event, self.said)
        if self.said.error is not None and not self.said.text:
            self.status, self.code = self.said.error["status"], self.said.error["code"]
            self.said.error = None
            return False
        return self.said.error is None and not self.said.ends

    async def hang_up(self) -> None:
        response = self._socket._response
        assert response.connection is not None
        assert response.connection.transport is not None
        response.connection.transport.abort()


@asynccontextmanager
async def calling(
    caller: Person, door: Door, prompt: str, model: str, limit: int = 100, *, more: Mapping[str, Any] | None = None
) -> AsyncIterator[Call]:
    """A call that is answered. `more` are further headers; over a WebSocket, further fields."""
    body, more = door.body(prompt, model, limit), dict(more or {})
    if door.is_socket:
        async with caller.http.ws_connect(door.path) as websocket:
            await websocket.send_json({"type": "auth", "token": caller.token})
            assert (await websocket.receive_json())["type"] == "ready"
            await websocket.send_json(body | more)
            yield _SocketCall(door, websocket)
    else:
        async with caller.http.post(door.path, json=body, headers=caller.bearer | more) as response:
            yield _HttpCall(door, response)


async def call(
    caller: Person, door: Door, prompt: str, model: str, limit: int = 100, *, more: Mapping[str, Any] | None = None
) -> Call:
    """A call, heard to its end."""
    async with calling(caller, door, prompt, model, limit, more=more) as made:
        return await made.rest()


@asynccontextmanager
async def slow_reader(caller: Person, server_url: str) -> AsyncIterator[Person]:
    """The same person, with a client that takes little off the line unless it is read."""

    def small(info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = info
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        return made

    connector = aiohttp.TCPConnector(limit=0, socket_factory=small)
    async with aiohttp.ClientSession(server_url, connector=connector, read_bufsize=SMALL_BUFFER) as http:
        yield replace(caller, http=http)
