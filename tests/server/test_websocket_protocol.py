"""The limits on what a WebSocket client may send, over a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tollkeeper.server.http_protocol import bounded_protocol
from tollkeeper.server.limits import Connections, EdgeLimits
from tollkeeper.server.websocket_protocol import TOO_MUCH, Budget, bounded_websocket_protocol

LIMITS = EdgeLimits(socket_frames_per_s=10.0, socket_frames_burst=100.0, socket_bytes_burst=1_000_000.0)
DEADLINE_S = 20.0

StartServer = Callable[..., Awaitable[tuple[str, Connections]]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


@pytest.fixture
async def serve() -> AsyncIterator[StartServer]:
    servers: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(**changes: Any) -> tuple[str, Connections]:
        limits = replace(LIMITS, **changes)
        connections = Connections(limits)
        config = uvicorn.Config(
            echo,
            http=bounded_protocol(limits, connections),
            ws=bounded_websocket_protocol(limits, connections),
            log_config=None,
            lifespan="off",
        )
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        servers.append((server, task))
        async with asyncio.timeout(DEADLINE_S):
            while not server.started:
                await asyncio.sleep(0.01)
        return f"ws://127.0.0.1:{listening.getsockname()[1]}/", connections

    yield start
    for server, task in servers:
        server.should_exit = server.force_exit = True
        await task


async def test_a_connection_within_its_budget_stays_open(serve: StartServer) -> None:
    url, _ = await serve()
    async with asyncio.timeout(DEADLINE_S), connect(url) as client:
        for number in range(50):
            await client.send(str(number))
            assert await client.recv() == str(number)


async def flood(client: ClientConnection, frame: str) -> None:
    while True:
        await (client.ping() if frame == "ping" else client.send("x"))
        await asyncio.sleep(0)


@pytest.mark.parametrize("frame", ["ping", "text"])
async def test_too_many_frames_close_the_connection(serve: StartServer, frame: str) -> None:
    url, connections = await serve()
    async with asyncio.timeout(DEADLINE_S), connect(url, ping_interval=None, max_queue=None) as client:
        with pytest.raises(ConnectionClosed) as closed:
            await flood(client, frame)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == TOO_MUCH
    assert connections.refusals == {"TOLLKEEPER_SOCKET_FRAMES_PER_SECOND": 1}


async def test_too_many_bytes_close_the_connection(serve: StartServer) -> None:
    url, connections = await serve(socket_bytes_burst=10_000.0, socket_bytes_per_s=1.0)
    async with asyncio.timeout(DEADLINE_S), connect(url, compression=None) as client:
        await client.send("x" * 5_000)
        assert len(await client.recv()) == 5_000
        await client.send("x" * 6_000)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == TOO_MUCH
    assert connections.refusals == {"socket_bytes": 1}


async def test_a_websocket_counts_as_a_connection_until_it_is_closed(serve: StartServer) -> None:
    url, connections = await serve()
    async with asyncio.timeout(DEADLINE_S):
        async with connect(url) as client:
            await client.send("hello")
            await client.recv()
            assert len(connections) == 1
        while len(connections):
            await asyncio.sleep(0.01)


def test_a_budget_refills_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    budget = Budget(rate=2.0, burst=4.0)
    assert [budget.spend(1) for _ in range(5)] == [True] * 4 + [False]
    now = 1.5
    assert [budget.spend(1) for _ in range(3)] == [True, True, False]
    now = 100.0
    assert [budget.spend(1) for _ in range(5)] == [True] * 4 + [False]
