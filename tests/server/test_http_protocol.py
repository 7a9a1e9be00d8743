"""What the HTTP protocol accepts, refuses and limits, over a real socket."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tollkeeper.server.http_protocol import bounded_protocol
from tollkeeper.server.limits import Connections, EdgeLimits

GET = b"GET /a HTTP/1.1\r\nHost: here\r\n\r\n"
LIMITS = EdgeLimits(head_s=0.3, idle_s=30.0)
DEADLINE_S = 20.0


@dataclass
class ServerUnderTest:
    """A server with limits. `requests` are those that its application received; it responds when `gate` is set."""

    port: int
    requests: list[tuple[Scope, bytes]]
    gate: asyncio.Event
    connections: Connections
    server: uvicorn.Server | None = None
    clients: list["Client"] = field(default_factory=list)

    def shut_down_connections(self) -> None:
        """As uvicorn does when it stops."""
        assert self.server is not None
        for connection in list(self.server.server_state.connections):
            connection.shutdown()

    async def open(self) -> "Client":
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> tuple[int, bytes]:
        """The next response: its status and body."""
        async with asyncio.timeout(DEADLINE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            [length] = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.startswith(b"content-length")]
            return int(head.split()[1]), await self.reader.readexactly(int(length))

    async def is_closed(self) -> bool:
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


StartServer = Callable[..., Awaitable[ServerUnderTest]]


@pytest.fixture
async def serve() -> AsyncIterator[StartServer]:
    """A function that starts a server. Its arguments change the limits: `serve(max_connections=2)`."""
    servers: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []
    servers_under_test: list[ServerUnderTest] = []

    async def start(**changes: Any) -> ServerUnderTest:
        limits = replace(LIMITS, **changes)
        connections = Connections(limits)
        server_under_test = ServerUnderTest(0, [], asyncio.Event(), connections)
        server_under_test.gate.set()
        servers_under_test.append(server_under_test)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            body, more = b"", scope["path"] != "/unread"
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            server_under_test.requests.append((scope, body))
            await server_under_test.gate.wait()
            answer = scope["path"].encode()
            headers = [(b"content-length", b"%d" % len(answer))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})

        config = uvicorn.Config(
            app, http=bounded_protocol(limits, connections), log_config=None, access_log=False, lifespan="off"
        )
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(server.serve(sockets=[listening]))
        servers.append((server, task))
        async with asyncio.timeout(DEADLINE_S):
            while not server.started:
                await asyncio.sleep(0.01)
        server_under_test.port = listening.getsockname()[1]
        server_under_test.server = server
        return server_under_test

    yield start
    for server_under_test in servers_under_test:
        server_under_test.gate.set()
        for client in server_under_test.clients:
            client.writer.transport.abort()
    await asyncio.sleep(0.01)
    for server, task in servers:
        server.should_exit = server.force_exit = True
        await task


async def test_a_persistent_connection_serves_several_requests(serve: StartServer) -> None:
    server = await serve()
    client = await server.open()
    for _ in range(3):
        await client.send(b"POST /b HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nhello")
        assert await client.response() == (200, b"/b")
    assert [body for _, body in server.requests] == [b"hello"] * 3


async def test_a_stop_closes_a_connection_that_is_idle(serve: StartServer) -> None:
    server = await serve()
    client = await server.open()
    await client.send(GET)
    await client.response()
    server.shut_down_connections()
    assert await client.is_closed()


async def test_a_stop_answers_a_request_that_the_event_loop_has_not_read_yet(serve: StartServer) -> None:
    """A proxy reports an error to its caller for a POST into a connection that is closed without a response."""
    server = await serve()
    client = await server.open()
    await client.send(GET)
    await client.response()
    os.write(client.writer.get_extra_info("socket").fileno(), GET)
    server.shut_down_connections()
    assert await client.response() == (200, b"/a")


async def test_a_stop_answers_a_request_whose_head_is_incomplete_or_closes_after_a_time(serve: StartServer) -> None:
    server = await serve(head_s=20.0)
    whole, part = await server.open(), await server.open()
    for client in (whole, part):
        await client.send(GET[:10])
    await asyncio.sleep(0.05)
    server.shut_down_connections()
    await whole.send(GET[10:])
    assert await whole.response() == (200, b"/a")
    assert (await part.response())[0] == 408


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 1000])
async def test_requests_do_not_depend_on_the_segments_of_the_connection(serve: StartServer, step: int) -> None:
    server = await serve(head_s=20.0)
    client = await server.open()
    chunked = b"POST /c HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    for request in (GET, b"POST /b HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n\r\n\r\n", chunked, GET):
        for at in range(0, len(request), step):
            await client.send(request[at : at + step])
            await asyncio.sleep(0)
        assert (await client.response())[0] == 200
    assert [body for _, body in server.requests] == [b"", b"\r\n\r\n", b"abcde", b""]


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(serve: StartServer) -> None:
    server = await serve()
    server.gate.clear()
    client = await server.open()
    paths = [b"/%d" % number for number in range(50)]
    await client.send(b"".join(b"GET %s HTTP/1.1\r\nHost: here\r\n\r\n" % path for path in paths))
    while not server.requests:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert len(server.requests) == 1
    server.gate.set()
    assert [(await client.response())[1] for _ in paths] == paths


async def test_pipelined_requests_are_not_read_while_a_response_is_pending(serve: StartServer) -> None:
    server = await serve()
    server.gate.clear()
    client = await server.open()
    client.writer.write(GET * 400_000)  # 12 MB
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await client.writer.drain()
    assert len(server.requests) == 1
    client.writer.transport.abort()
    server.gate.set()


async def test_a_request_after_a_chunked_one_in_the_same_segment_closes_the_connection(serve: StartServer) -> None:
    """The end of a chunked body is not known in advance. The client may repeat the second request (RFC 9112, 9.3.2)."""
    server = await serve()
    client = await server.open()
    await client.send(b"POST /c HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET)
    assert await client.response() == (200, b"/c")
    assert await client.is_closed()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("head", "status", "setting"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431, "TOLLKEEPER_MAX_HEAD_BYTES"),
        (b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 40_000, 431, "TOLLKEEPER_MAX_HEAD_BYTES"),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n", 431, "TOLLKEEPER_MAX_HEAD_BYTES"),
        (b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431, "TOLLKEEPER_MAX_HEAD_FIELDS"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, None),
        (b"GET / HTTP/1.1\r\nHost: here\r\nHost: there\r\n\r\n", 400, None),
        (b"GET / HTTP/1.0\r\nHost: here\r\nHost: here\r\n\r\n", 400, None),
        (b"nonsense\r\n\r\n", 400, None),
        (b"GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, None),
        (b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, None),
        (b"GET / HTTP/1.1\r\nHost: here\r\nX", 408, "TOLLKEEPER_HEAD_SECONDS"),
        (b"\r\n", 408, "TOLLKEEPER_HEAD_SECONDS"),
    ],
)
async def test_a_head_that_is_too_large_late_or_invalid_is_refused(
    serve: StartServer, head: bytes, status: int, setting: str | None
) -> None:
    server = await serve()
    client = await server.open()
    await client.send(head)
    assert (await client.response())[0] == status
    assert await client.is_closed()
    assert server.requests == []
    assert server.connections.refusals == ({setting: 1} if setting else {})
    assert server.connections.bad_requests == (0 if setting else 1)


async def test_a_head_at_its_limits_is_accepted(serve: StartServer) -> None:
    server = await serve()
    client = await server.open()
    await client.send(b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: y\r\n" * 98 + b"Y: " + b"y" * 31_000 + b"\r\n\r\n")
    assert (await client.response())[0] == 200


async def test_an_http_1_0_request_needs_no_host(serve: StartServer) -> None:
    server = await serve()
    client = await server.open()
    await client.send(b"GET /old HTTP/1.0\r\n\r\n")
    assert await client.response() == (200, b"/old")
    assert await client.is_closed()


async def test_a_connection_without_a_request_is_closed_without_a_response(serve: StartServer) -> None:
    server = await serve()
    assert await (await server.open()).is_closed()


async def test_an_idle_persistent_connection_is_closed(serve: StartServer) -> None:
    server = await serve(idle_s=0.2)
    client = await server.open()
    await client.send(GET)
    assert (await client.response())[0] == 200
    assert await client.is_closed()


async def test_empty_lines_do_not_keep_a_connection_open(serve: StartServer) -> None:
    server = await serve()
    client = await server.open()
    await client.send(GET)
    await client.response()
    await client.send(b"\r\n")
    assert (await client.response())[0] == 408


async def test_trailers_are_not_added_to_the_headers(serve: StartServer) -> None:
    server = await serve()
    server.gate.clear()
    client = await server.open()
    trailers = b"Authorization: Bearer x\r\nX-Forwarded-For: 1.2.3.4\r\n"
    head = b"POST /c HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
    await client.send(head + b"1\r\na\r\n0\r\n" + trailers + b"\r\n")
    while not server.requests:
        await asyncio.sleep(0.01)
    server.gate.set()
    assert (await client.response())[0] == 200
    [(scope, body)] = server.requests
    assert (body, [name for name, _ in scope["headers"]]) == (b"a", [b"host", b"transfer-encoding"])
    await client.send(GET)
    assert (await client.response())[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /p HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST /p HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
        b"GET /p HTTP/1.1\r\nHost: here\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    ],
)
async def test_an_upgrade_to_an_unsupported_protocol_is_served_as_a_plain_request(
    serve: StartServer, request_: bytes
) -> None:
    server = await serve()
    client = await server.open()
    await client.send(request_)
    assert await client.response() == (200, b"/p")
    assert await client.is_closed()


async def test_a_response_may_be_sent_before_the_end_of_its_request(serve: StartServer) -> None:
    server = await serve()
    client = await server.open()
    await client.send(b"POST /unread HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000)
    assert await client.response() == (200, b"/unread")
    await client.send(b"x" * 50_000)
    await client.send(GET)
    assert await client.response() == (200, b"/a")


async def test_a_body_that_continues_too_long_after_its_response_closes_the_connection(
    serve: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tollkeeper.server.http_protocol.LINGER_S", 0.1)
    server = await serve()
    client = await server.open()
    await client.send(b"POST /unread HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\nx")
    assert await client.response() == (200, b"/unread")
    assert await client.is_closed()


async def test_connections_above_the_limit_are_refused_until_others_are_closed(serve: StartServer) -> None:
    server = await serve(max_connections=2, head_s=20.0)
    first, second, third = [await server.open() for _ in range(3)]
    assert (await third.response())[0] == 503
    assert await third.is_closed()
    assert server.connections.refusals == {"TOLLKEEPER_MAX_CONNECTIONS": 1}
    first.writer.close()
    async with asyncio.timeout(DEADLINE_S):
        while len(server.connections) > 1:
            await asyncio.sleep(0.01)
    fourth = await server.open()
    for client in (second, fourth):
        await client.send(GET)
        assert (await client.response())[0] == 200


async def test_the_connections_of_an_address_are_limited_except_those_of_a_trusted_proxy(serve: StartServer) -> None:
    server = await serve(max_connections_per_address=1, head_s=20.0)
    await server.open()
    assert (await (await server.open()).response())[0] == 503
    assert server.connections.refusals == {"TOLLKEEPER_MAX_CONNECTIONS_PER_ADDRESS": 1}
    trusting = await serve(max_connections_per_address=1, head_s=20.0, trusted_proxies="10.0.0.1, 127.0.0.0/8")
    for client in [await trusting.open() for _ in range(3)]:
        await client.send(GET)
        assert (await client.response())[0] == 200
