"""The upstream's side of a connection: reads requests, and sends answers, correctly or with the faults of a script."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from journeys.upstream.script import AFTER, SECRET, Script, words
from journeys.upstream.wire import Frame, Wire, encode, garbage, to_bytes

RESET_DELAY_S = 0.05
"""Seconds for the client to read what was sent before a reset, which may discard it."""


@dataclass
class ReceivedRequest:
    """A request with its body as text, and the state of its answer. `sent` has the text sent of each part."""

    method: str
    path: str
    headers: dict[str, str]
    body: str
    finished: bool = False
    cancelled: bool = False
    sent_chunks: int = 0
    sent: dict[str, str] = field(default_factory=dict)

    def note(self, frame: Frame) -> None:
        if frame.part:
            self.sent_chunks += 1
            self.sent[frame.part] = self.sent.get(frame.part, "") + frame.text

    def to_json(self) -> dict[str, Any]:
        """The form in which the control endpoint returns it."""
        parts = self.sent.values()
        return self.__dict__ | {"sent_text": "\n".join(parts), "sent_tokens": sum(map(words, parts))}


class ClientReader(asyncio.StreamReader):
    """A reader that notices at once when the client disconnects."""

    def __init__(self) -> None:
        super().__init__(limit=1 << 20)
        self.disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ignore_disconnect = False

    def feed_eof(self) -> None:
        super().feed_eof()
        self._set_disconnected()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self._set_disconnected()

    def _set_disconnected(self) -> None:
        if not self.ignore_disconnect and not self.disconnected.done():
            self.disconnected.set_result(None)


class ConnectionEnded(Exception):
    """The connection ended before the answer."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection with a client."""

    reader: ClientReader
    writer: asyncio.StreamWriter

    async def request(self) -> ReceivedRequest | None:
        """The next request, or None at the end of the connection."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        request_line, *fields = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = request_line.split(" ")
        return ReceivedRequest(method, path, headers, body.decode())

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
        await self.write("\r\n".join([*lines, "", ""]).encode())

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response."""
        await self.head(status, {**headers, "Content-Length": str(len(body))})
        await self.write(body)

    def reset(self) -> None:
        """Send a TCP reset. The client does not count as disconnected."""
        self.reader.ignore_disconnect = True
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Send nothing until the client disconnects."""
        await asyncio.wait({self.reader.disconnected})

    async def run_until_disconnected(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Run `work`, and cancel it when the client disconnects. Returns False when the connection has ended."""
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, self.reader.disconnected}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task})
        return False


class BodyWriter:
    """Writes a body in the pieces that the script sets.


    `on_sent` is called with each frame when its last byte has been written.
    """

    def __init__(
        self, connection: Connection, script: Script, *, chunked: bool, on_sent: Callable[[Frame], None]
    ) -> None:
        self._connection = connection
        self._chunked = chunked
        self._on_sent = on_sent
        self._split: int | None = script.get("split_at")
        self._coalesce = bool(script.get("coalesce"))
        self._reset_at: int | None = script.get("reset_at_byte")
        self._written = 0
        self._buffer = b""
        self._pending_frames: list[tuple[int, Frame]] = []

    async def put(self, data: bytes, frame: Frame | None = None) -> None:
        self._buffer += data
        if frame is not None:
            self._pending_frames.append((self._written + len(self._buffer), frame))
        if not self._coalesce:
            await self.flush()

    async def flush(self) -> None:
        """Write the buffered data. Raises ConnectionEnded at the byte at which the script resets the connection."""
        data, self._buffer = self._buffer, b""
        if self._reset_at is not None:
            data = data[: self._reset_at - self._written]
        size = self._split or len(data) or 1
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self._connection.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)
            self._written += len(piece)
            while self._pending_frames and self._pending_frames[0][0] <= self._written:
                self._on_sent(self._pending_frames.pop(0)[1])
            await self._connection.writer.drain()
            await asyncio.sleep(0)
        if self._written == self._reset_at:
            await self.reset()

    async def reset(self) -> None:
        await asyncio.sleep(RESET_DELAY_S)
        self._connection.reset()
        raise ConnectionEnded

    async def end(self) -> None:
        """End the body properly."""
        await self.flush()
        if self._reset_at is not None:
            raise ValueError(f"there is no byte {self._reset_at} in a body of {self._written}")
        if self._chunked:
            await self._connection.write(b"0\r\n\r\n")


@dataclass(frozen=True, slots=True)
class AnswerSender:
    """Sends answers as the script sets. `wait` waits at a gate."""

    connection: Connection
    script: Script
    wire: Wire
    wait: Callable[[str], Coroutine[Any, Any, None]]

    async def document(self, status: int, content: bytes, note: Callable[[Frame], None]) -> bool:
        """Send a whole answer. What the script sets after a chunk happens in the middle of the body."""
        headers = {"Content-Type": "application/json"} | self.script.get("headers", {})
        out = BodyWriter(self.connection, self.script, chunked=False, on_sent=note)
        if "error_after" in self.script:
            status, content = 500, to_bytes(self.wire.error(500))
        if "garbage_after" in self.script:
            content = (content[: len(content) // 2] + SECRET.encode()).ljust(len(content), b"\xff")
        await self.connection.head(status, headers | {"Content-Length": str(len(content))})
        try:
            if self.script.keys() & {"gate_after", "stall_after", "reset_after", "close_after"}:
                await out.put(content[: len(content) // 2])
                content = content[len(content) // 2 :]
                for _, gate in _gates(self.script):
                    await self.wait(gate)
                await self._break(out, None)
            await out.put(content)
            await out.end()
        except ConnectionEnded:
            return False
        return True

    async def stream(self, frames: Iterator[Frame], note: Callable[[Frame], None]) -> bool:
        """Send an answer as a stream of events."""
        headers = {"Content-Type": self.wire.media_type, "Cache-Control": "no-cache", "Transfer-Encoding": "chunked"}
        await self.connection.head(200, headers | self.script.get("headers", {}))
        out = BodyWriter(self.connection, self.script, chunked=True, on_sent=note)
        try:
            await self._events(frames, out)
            if self.script.get("close_at_end"):
                await out.flush()
                return False
            await out.end()
        except ConnectionEnded:
            return False
        return True

    async def _events(self, frames: Iterator[Frame], out: BodyWriter) -> None:
        sent_chunks = 0
        times = 2 if self.script.get("duplicate_frames") else 1
        pace = self.script.get("pace", 0)
        for number, frame in enumerate(frames):
            if frame.part and (sent_chunks == 0 and await self._after(0, number, out)):
                return
            if frame.part and sent_chunks and pace:
                await asyncio.sleep(pace)
            if frame.last and self.script.get("no_done"):
                continue
            for _ in range(times):
                await out.put(encode(frame, self.script, self.wire.media_type), frame)
            if frame.part:
                sent_chunks += 1
                if await self._after(sent_chunks, number + 1, out):
                    return
        for after in [*(self.script[key] for key in AFTER if key in self.script), *dict(_gates(self.script))]:
            if after > sent_chunks or sent_chunks == 0:
                raise ValueError(f"there is no chunk {after} in a stream of {sent_chunks}")

    async def _after(self, sent_chunks: int, number: int, out: BodyWriter) -> bool:
        """Do what the script sets after `sent_chunks` chunks. Returns True when nothing follows."""
        for after, gate in _gates(self.script):
            if after == sent_chunks:
                await out.flush()
                await self.wait(gate)
        after, times, pace_s = self.script.get("comments_after", (None, 0, 0))
        if after == sent_chunks:
            for _ in range(times):
                await asyncio.sleep(pace_s)
                await out.put(b": working\n\n")
                await out.flush()
        await self._break(out, sent_chunks)
        if self.script.get("garbage_after") == sent_chunks:
            await out.put(garbage(self.script, self.wire.media_type))
            return True
        if self.script.get("error_after") == sent_chunks:
            frame = self.wire.error_frame(number)
            await out.put(encode(frame, self.script, self.wire.media_type))
            return True
        return False

    async def _break(self, out: BodyWriter, sent_chunks: int | None) -> None:
        """Stall, reset or close, if the script sets it after so many chunks; with None: after any number of chunks."""

        def is_set(key: str) -> bool:
            return key in self.script and sent_chunks in (None, self.script[key])

        if not is_set("stall_after") and not is_set("reset_after") and not is_set("close_after"):
            return
        await out.flush()
        if is_set("stall_after"):
            await self.connection.hang()
        if is_set("reset_after"):
            await out.reset()
        raise ConnectionEnded


def _gates(script: Script) -> list[tuple[int, str]]:
    """`gate_after` as a list, even if it is a single pair."""
    value = script.get("gate_after", [])
    return [(value[0], value[1])] if value and isinstance(value[0], int) else [(after, gate) for after, gate in value]
