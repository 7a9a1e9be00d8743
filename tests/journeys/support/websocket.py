"""A client of WS /ai/ws, on top of the `websockets` package."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from journeys.support.server import Server
from journeys.support.users import ApiUser
from support.deadlines import TEST_DEADLINE_S


class Turn(NamedTuple):
    """The frames of one turn: its deltas, and the frame that ended it."""

    deltas: list[dict[str, Any]]
    last: dict[str, Any]

    @property
    def text(self) -> str:
        return "".join(delta["content"] for delta in self.deltas)


class Connection:
    """A WebSocket connection to the server."""

    def __init__(self, raw: ClientConnection) -> None:
        self.raw = raw

    async def send(self, kind: str, **fields: Any) -> None:
        """Send a frame."""
        await self.raw.send(json.dumps({"type": kind, **fields}))

    async def receive(self) -> dict[str, Any]:
        """Receive the next frame."""
        async with asyncio.timeout(TEST_DEADLINE_S):
            frame = await self.raw.recv()
        assert isinstance(frame, str), "frames are text"
        found: dict[str, Any] = json.loads(frame)
        return found

    async def receive_words(self, count: int) -> str:
        """Receive deltas until their text has `count` words. Returns the text."""
        text = ""
        while len(text.split()) < count:
            frame = await self.receive()
            assert frame["type"] == "delta", frame
            text += frame["content"]
        return text

    async def receive_turn(self) -> Turn:
        """Receive frames up to the one that ends the turn."""
        deltas: list[dict[str, Any]] = []
        while (frame := await self.receive())["type"] == "delta":
            deltas.append(frame)
        return Turn(deltas, frame)

    async def run_turn(self, prompt: str, **fields: Any) -> Turn:
        """Send a query, and receive its turn."""
        await self.send("query", prompt=prompt, **fields)
        return await self.receive_turn()

    async def wait_closed(self) -> int:
        """Skip frames until the server closes the connection. Returns the close code."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(TEST_DEADLINE_S):
                while True:
                    await self.raw.recv()
        assert self.raw.close_code is not None
        return self.raw.close_code


@asynccontextmanager
async def open_websocket(server: Server, path: str = "/ai/ws", **options: Any) -> AsyncIterator[Connection]:
    """Open a connection without authenticating. `options` are those of `websockets.connect`."""
    url = f"ws://127.0.0.1:{server.port}{path}"
    async with connect(url, proxy=None, max_size=None, compression=None, **options) as raw:
        yield Connection(raw)


@asynccontextmanager
async def authenticated_websocket(server: Server, caller: ApiUser, **options: Any) -> AsyncIterator[Connection]:
    """Open a connection, and authenticate as `caller`."""
    async with open_websocket(server, **options) as connection:
        await connection.send("auth", token=caller.token)
        ready = await connection.receive()
        assert ready["type"] == "ready", ready
        yield connection
