"""The load: keep-alive HTTP/1.1 connections, each with one request at a time. Every response is checked."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from bench.http_response import HttpResponse
from bench.processes import BenchError

HOST = "127.0.0.1"
MAX_RUN_S = 120.0


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """The bytes of a request, the parts that a valid response body contains, and the whole body if it is known."""

    request: bytes
    body_parts: tuple[bytes, ...] = ()
    body: bytes | None = None

    def accepts(self, body: bytes) -> bool:
        return all(part in body for part in self.body_parts) and self.body in (None, body)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One run of the load. All times are in seconds.

    `first_byte_s` and `latencies_s` have one item per call: until the body started, and until it was complete. `reads`
    counts the reads from all connections.
    """

    duration_s: float
    first_byte_s: list[float]
    latencies_s: list[float]
    reads: int


def http_request(method: str, path: str, *, token: str | None = None, body: Mapping[str, Any] | None = None) -> bytes:
    """Returns the bytes of one HTTP/1.1 request."""
    content = json.dumps(body).encode() if body is not None else b""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", "Accept: application/json"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


class _Connection(asyncio.Protocol):
    """One client connection: sends a request, collects its response, and reports it to the run."""

    def __init__(self, run: "_Run", request: CheckedRequest) -> None:
        self._run = run
        self._request = request
        self._transport: asyncio.Transport | None = None
        self.sent_at = self.first_byte_at = 0.0
        self.response = HttpResponse()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport does not inherit from it

    def send(self) -> None:
        assert self._transport is not None
        self.response = HttpResponse()
        self.first_byte_at = 0.0
        self.sent_at = time.perf_counter()
        self._transport.write(self._request.request)

    def data_received(self, data: bytes) -> None:
        response = self.response
        is_complete = response.feed(data)
        if not self.first_byte_at and response.body_started:
            self.first_byte_at = time.perf_counter()
        if not is_complete:
            return
        if response.is_valid and self._request.accepts(response.body):
            self._run.complete(self, time.perf_counter())
        else:
            self._run.fail(f"A response is not the expected one: {response.received[:1_000]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.fail(f"A connection was lost: {exc}")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Run:
    """The state that connections share: how many requests are not sent yet, and the times of the responses."""

    def __init__(self, calls: int) -> None:
        self._unsent = calls
        self._calls = calls
        self.first_byte_s: list[float] = []
        self.latencies_s: list[float] = []
        self.reads = 0
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send_next(self, connection: _Connection) -> None:
        if self._unsent:
            self._unsent -= 1
            connection.send()

    def complete(self, connection: _Connection, now: float) -> None:
        self.first_byte_s.append(connection.first_byte_at - connection.sent_at)
        self.latencies_s.append(now - connection.sent_at)
        self.reads += connection.response.reads
        if len(self.latencies_s) < self._calls:
            self.send_next(connection)
        elif not self.finished.done():
            self.finished.set_result(None)

    def fail(self, reason: str) -> None:
        if not self.finished.done():
            self.finished.set_exception(BenchError(reason))


class LoadDriver:
    """Opens connections to one server, and then makes the calls. Connection n sends request n, modulo their number."""

    def __init__(self, port: int, requests: Sequence[CheckedRequest], *, connections: int, calls: int) -> None:
        self._port = port
        self._requests = requests
        self._connection_count = min(connections, calls)
        self._calls = calls
        self._run = _Run(calls)
        self._connections: list[_Connection] = []

    async def __aenter__(self) -> "LoadDriver":
        loop = asyncio.get_running_loop()
        for number in range(self._connection_count):
            connection = _Connection(self._run, self._requests[number % len(self._requests)])
            await loop.create_connection(lambda made=connection: made, HOST, self._port)  # type: ignore[misc]
            self._connections.append(connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._run.finished.done():
            self._run.finished.cancel()
        for connection in self._connections:
            connection.close()
        await asyncio.sleep(0)

    async def run(self) -> LoadResult:
        """Make the calls. Raises BenchError for an unexpected response, or after MAX_RUN_S."""
        started = time.perf_counter()
        for connection in self._connections:
            self._run.send_next(connection)
        try:
            async with asyncio.timeout(MAX_RUN_S):
                await self._run.finished
        except TimeoutError:
            raise BenchError(f"{self._calls} calls took longer than {MAX_RUN_S:.0f} s.") from None
        run = self._run
        return LoadResult(time.perf_counter() - started, run.first_byte_s, run.latencies_s, run.reads)

    @property
    def last_body(self) -> bytes:
        """The body of the first connection's last response."""
        return self._connections[0].response.body


async def request_json(port: int, request: bytes) -> Any:
    """Send one request on a new connection. Returns the decoded body. Raises BenchError unless the status is 200."""
    async with LoadDriver(port, [CheckedRequest(request)], connections=1, calls=1) as driver:
        await driver.run()
        return json.loads(driver.last_body)
