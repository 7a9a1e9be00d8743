"""Someone who calls over a WebSocket, with a client that others have made."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from journeys.support.server import Server
from journeys.support.users import Person
from patience import PATIENCE_S


class Heard(NamedTuple):
    """One turn as it was heard: the deltas, and the frame that ended it."""

    deltas: list[dict[str, Any]]
    last: dict[str, Any]

    @property
    def text(self) -> str:
        return "".join(delta["content"] for delta in self.deltas)


class Call:
    """One connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, kind: str, **fields: Any) -> None:
        """Send a frame."""
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def hear(self) -> dict[str, Any]:
        """The next frame."""
        async with asyncio.timeout(PATIENCE_S):
            frame = await self.connection.recv()
        assert isinstance(frame, str), "frames are text"
        found: dict[str, Any] = json.loads(frame)
        return found

    async def hear_deltas(self, count: int) -> str:
        """So many deltas: what they say."""
        frames = [await self.hear() for _ in range(count)]
        assert [frame["type"] for frame in frames] == ["delta"] * count, frames
        return "".join(frame["content"] for frame in frames)

    async def hear_turn(self) -> Heard:
        """Everything up to the frame that ends the turn."""
        deltas: list[dict[str, Any]] = []
        while (frame := await self.hear())["type"] == "delta":
            deltas.append(frame)
        return Heard(deltas, frame)

    async def turn(self, prompt: str, **fields: Any) -> Heard:
        """One question and all of its answer."""
        await self.say("query", prompt=prompt, **fields)
        return await self.hear_turn()

    async def closed_with(self) -> int:
        """The code with which the other side closes. What it says before is passed over."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    await self.connection.recv()
        assert self.connection.close_code is not None
        return self.connection.close_code


@asynccontextmanager
async def dialled(server: Server, path: str = "/ai/ws", **options: Any) -> AsyncIterator[Call]:
    """A connection on which nothing was said yet. `options` are those of the client."""
    url = f"ws://127.0.0.1:{server.port}{path}"
    async with connect(url, proxy=None, max_size=None, compression=None, **options) as connection:
        yield Call(connection)


@asynccontextmanager
async def calling(server: Server, caller: Person, **options: Any) -> AsyncIterator[Call]:
    """A connection on which the caller is known."""
    async with dialled(server, **options) as call:
        await call.say("auth", token=caller.token)
        ready = await call.hear()
        assert ready["type"] == "ready", ready
        yield call
