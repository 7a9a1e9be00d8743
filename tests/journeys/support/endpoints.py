"""Client of every metered endpoint: sends a call, reads the answer piece by piece, and can disconnect."""

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
    Answer,
    Body,
    Chat,
    ClientFormat,
    Completions,
    Embeddings,
    Event,
    Frames,
    Messages,
    Native,
    NativeChat,
    Responses,
    events_in,
)
from journeys.support.users import ApiUser
from support.deadlines import TEST_DEADLINE_S

SMALL_BUFFER = 4096
"""Bytes that a slow client buffers."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A metered endpoint in one of its modes. `extra` are more fields of the body."""

    name: str
    path: str
    client_format: ClientFormat
    streams: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_socket(self) -> bool:
        return self.path == "/ai/ws"

    @property
    def returns_text(self) -> bool:
        """Whether the answer is text; embeddings are numbers."""
        return self.path != "/v1/embeddings"

    def body(self, prompt: str, model: str, limit: int) -> Body:
        return self.client_format.body(prompt, model, limit) | dict(self.extra)


SSE = {"stream": True}
NATIVE_STREAM = Endpoint("stream", "/ai/stream", Native(), streams=True)
WEBSOCKET = Endpoint("ws", "/ai/ws", Frames(), streams=True)
EMBEDDINGS = Endpoint("embeddings", "/v1/embeddings", Embeddings())
WHOLE_ENDPOINTS = (
    Endpoint("query", "/ai/query", Native()),
    Endpoint("chat", "/ai/chat", NativeChat()),
    Endpoint("chat-completions", "/v1/chat/completions", Chat()),
    Endpoint("completions", "/v1/completions", Completions()),
    Endpoint("responses", "/v1/responses", Responses()),
    Endpoint("messages", "/v1/messages", Messages()),
)
STREAMING_ENDPOINTS = (
    NATIVE_STREAM,
    Endpoint("chat-sse", "/ai/chat", NativeChat(), streams=True, extra=SSE),
    WEBSOCKET,
    Endpoint("chat-completions-sse", "/v1/chat/completions", Chat(), streams=True, extra=SSE),
    Endpoint("completions-sse", "/v1/completions", Completions(), streams=True, extra=SSE),
    Endpoint("responses-sse", "/v1/responses", Responses(), streams=True, extra=SSE),
    Endpoint("messages-sse", "/v1/messages", Messages(), streams=True, extra=SSE),
)
ALL_ENDPOINTS = (*WHOLE_ENDPOINTS, *STREAMING_ENDPOINTS, EMBEDDINGS)


class ClientCall:
    """One call, from the moment that its response begins. Over a WebSocket, `headers` stay empty and `status` is 200
    unless an error frame comes first.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.answer = Answer()
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.raw = b""
        self.code: str | None = None
        """The error code of a call that failed before its first word."""
        self.close_code: int | None = None
        """The code with which the server closed the WebSocket."""

    async def read_words(self, words: int) -> None:
        """Read until the answer has so many words."""
        async with asyncio.timeout(TEST_DEADLINE_S):
            while self.answer.words < words:
                assert await self.read_more(), f"the answer ended with {self.raw!r}"

    async def read_all(self) -> "ClientCall":
        """Read the answer to its end."""
        async with asyncio.timeout(TEST_DEADLINE_S):
            while await self.read_more():
                pass
        assert SECRET.encode() not in self.raw
        assert SECRET not in str(self.headers)
        return self

    async def disconnect(self) -> None:
        raise NotImplementedError

    async def read_more(self) -> bool:
        """Read the next piece. Returns False at the end of the answer."""
        raise NotImplementedError


class _HttpClientCall(ClientCall):
    def __init__(self, endpoint: Endpoint, response: aiohttp.ClientResponse) -> None:
        super().__init__(endpoint)
        self._response = response
        self._event_count = 0
        self.status, self.headers = response.status, response.headers
        self._streaming = response.headers["Content-Type"] == "text/event-stream"

    async def read_more(self) -> bool:
        block = await self._response.content.readany()
        self.raw += block
        if self._streaming:
            events = list(events_in(self.raw))
            for event in events[self._event_count :]:
                self.endpoint.client_format.add_event(event, self.answer)
            self._event_count = len(events)
        elif not block:
            self._read(json.loads(self.raw))
        return bool(block)

    def _read(self, document: Body) -> None:
        if self.status == 200:
            assert not self.endpoint.streams, self.raw
            self.answer = self.endpoint.client_format.read_whole(document)
        else:
            self.code = self.endpoint.client_format.code(document, self.headers)

    async def disconnect(self) -> None:
        self._response.close()


class _WebSocketClientCall(ClientCall):
    def __init__(self, endpoint: Endpoint, socket: aiohttp.ClientWebSocketResponse) -> None:
        super().__init__(endpoint)
        self._socket = socket
        self.status = 200

    async def read_more(self) -> bool:
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            self.close_code = self._socket.close_code
            return False
        self.raw += message.data.encode() + b"\n"
        event = Event("", message.data)
        self.endpoint.client_format.add_event(event, self.answer)
        if self.answer.error is not None and not self.answer.text:
            self.status, self.code = self.answer.error["status"], self.answer.error["code"]
            self.answer.error = None
            return False
        return self.answer.error is None and not self.answer.end_events

    async def disconnect(self) -> None:
        response = self._socket._response
        assert response.connection is not None
        assert response.connection.transport is not None
        response.connection.transport.abort()


@asynccontextmanager
async def open_call(
    caller: ApiUser,
    endpoint: Endpoint,
    prompt: str,
    model: str,
    limit: int = 100,
    *,
    more: Mapping[str, Any] | None = None,
) -> AsyncIterator[ClientCall]:
    """Send a call, and yield it when its response begins. `more` are headers, or fields of the WebSocket frame."""
    body, more = endpoint.body(prompt, model, limit), dict(more or {})
    if endpoint.is_socket:
        async with caller.http.ws_connect(endpoint.path) as websocket:
            await websocket.send_json({"type": "auth", "token": caller.token})
            assert (await websocket.receive_json())["type"] == "ready"
            await websocket.send_json(body | more)
            yield _WebSocketClientCall(endpoint, websocket)
    else:
        async with caller.http.post(endpoint.path, json=body, headers=caller.auth_headers | more) as response:
            yield _HttpClientCall(endpoint, response)


async def call(
    caller: ApiUser,
    endpoint: Endpoint,
    prompt: str,
    model: str,
    limit: int = 100,
    *,
    more: Mapping[str, Any] | None = None,
) -> ClientCall:
    """Send a call, and read its answer to the end."""
    async with open_call(caller, endpoint, prompt, model, limit, more=more) as opened:
        return await opened.read_all()


@asynccontextmanager
async def slow_reader(caller: ApiUser, server_url: str) -> AsyncIterator[ApiUser]:
    """The same user, with a client that buffers little: when it stops reading, the server's writes block."""

    def make_small_socket(info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = info
        small = socket.socket(family, kind, protocol)
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        return small

    connector = aiohttp.TCPConnector(limit=0, socket_factory=make_small_socket)
    async with aiohttp.ClientSession(server_url, connector=connector, read_bufsize=SMALL_BUFFER) as http:
        yield replace(caller, http=http)
