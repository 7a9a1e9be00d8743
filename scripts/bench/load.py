"""The load: kept HTTP/1.1 connections, each asking again as soon as it is answered. Every answer is checked."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from bench.processes import BenchError
from bench.replies import Reply

HOST = "127.0.0.1"
MAX_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Question:
    """A request ready to be written, what a good answer to it must contain, and where that is known, its whole body."""

    request: bytes
    needles: tuple[bytes, ...] = ()
    body: bytes | None = None

    def answered_by(self, body: bytes) -> bool:
        return all(needle in body for needle in self.needles) and self.body in (None, body)


@dataclass(frozen=True, slots=True)
class Drive:
    """What one run of the load saw, in seconds: how long it took; for each call, until its answer began and was whole.

    `arrivals` is how often something was read from a connection, all answers together.
    """

    seconds: float
    beginnings: list[float]
    latencies: list[float]
    arrivals: int


def http_request(method: str, path: str, *, token: str | None = None, body: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of one HTTP/1.1 request."""
    content = json.dumps(body).encode() if body is not None else b""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", "Accept: application/json"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


class _Connection(asyncio.Protocol):
    """One client: writes the next question, collects the answer, says when it is whole."""

    def __init__(self, load: "_Load", question: Question) -> None:
        self._load = load
        self._question = question
        self._transport: asyncio.Transport | None = None
        self.asked_at = self.begun_at = 0.0
        self.reply = Reply()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, but not by inheritance

    def ask(self) -> None:
        assert self._transport is not None
        self.reply = Reply()
        self.begun_at = 0.0
        self.asked_at = time.perf_counter()
        self._transport.write(self._question.request)

    def data_received(self, data: bytes) -> None:
        reply = self.reply
        whole = reply.feed(data)
        if not self.begun_at and reply.begun:
            self.begun_at = time.perf_counter()
        if not whole:
            return
        if reply.good and self._question.answered_by(reply.body):
            self._load.answered(self, time.perf_counter())
        else:
            self._load.fail(f"An answer is not what it must be: {reply.received[:1_000]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.fail(f"A connection was lost: {exc}")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Load:
    """What the connections share: how many questions are left, and when the answers came."""

    def __init__(self, calls: int) -> None:
        self._left = calls
        self._calls = calls
        self.beginnings: list[float] = []
        self.latencies: list[float] = []
        self.arrivals = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def next(self, connection: _Connection) -> None:
        if self._left:
            self._left -= 1
            connection.ask()

    def answered(self, connection: _Connection, now: float) -> None:
        self.beginnings.append(connection.begun_at - connection.asked_at)
        self.latencies.append(now - connection.asked_at)
        self.arrivals += connection.reply.arrivals
        if len(self.latencies) < self._calls:
            self.next(connection)
        elif not self.done.done():
            self.done.set_result(None)

    def fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(BenchError(reason))


class Driver:
    """Connections to one server, opened before the clock starts. Connection n asks question n, round and round."""

    def __init__(self, port: int, questions: Sequence[Question], *, connections: int, calls: int) -> None:
        self._port = port
        self._questions = questions
        self._number = min(connections, calls)
        self._calls = calls
        self._load = _Load(calls)
        self._connections: list[_Connection] = []

    async def __aenter__(self) -> "Driver":
        loop = asyncio.get_running_loop()
        for number in range(self._number):
            connection = _Connection(self._load, self._questions[number % len(self._questions)])
            await loop.create_connection(lambda made=connection: made, HOST, self._port)  # type: ignore[misc]
            self._connections.append(connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._load.done.done():
            self._load.done.cancel()
        for connection in self._connections:
            connection.close()
        await asyncio.sleep(0)

    async def run(self) -> Drive:
        """Make the calls. Raises BenchError for an answer that is not 200 and whole, or when MAX_SECONDS are over."""
        started = time.perf_counter()
        for connection in self._connections:
            self._load.next(connection)
        try:
            async with asyncio.timeout(MAX_SECONDS):
                await self._load.done
        except TimeoutError:
            raise BenchError(f"{self._calls} calls took longer than {MAX_SECONDS:.0f} s.") from None
        load = self._load
        return Drive(time.perf_counter() - started, load.beginnings, load.latencies, load.arrivals)

    @property
    def last_answer(self) -> bytes:
        """The body that the first connection received last."""
        return self._connections[0].reply.body


async def ask(port: int, request: bytes) -> Any:
    """One request on a connection of its own; the answer's JSON. Raises BenchError unless it is 200."""
    async with Driver(port, [Question(request)], connections=1, calls=1) as driver:
        await driver.run()
        return json.loads(driver.last_answer)
