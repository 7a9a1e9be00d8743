"""The upstream's end of a connection: what it hears, and how its answers get onto the line, well or badly."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from journeys.upstream.script import AFTER, SECRET, Script, words
from journeys.upstream.wire import Frame, Wire, encode, garbage, to_bytes

ARRIVES_WITHIN_S = 0.05
"""What was sent before a reset gets this long to be read: a reset may overtake it."""


@dataclass
class Seen:
    """One request as it arrived, and what it was answered. `body` is the text of it.

    `sent` holds what of each part of a streamed answer has been put on the line.
    """

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

    def told(self) -> dict[str, Any]:
        """As the control endpoint shows it."""
        parts = self.sent.values()
        return self.__dict__ | {"sent_text": "\n".join(parts), "sent_tokens": sum(map(words, parts))}


class Ear(asyncio.StreamReader):
    """Hears at once when the other side has gone."""

    def __init__(self) -> None:
        super().__init__(limit=1 << 20)
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.deaf = False

    def feed_eof(self) -> None:
        super().feed_eof()
        self._set_gone()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self._set_gone()

    def _set_gone(self) -> None:
        if not self.deaf and not self.gone.done():
            self.gone.set_result(None)


class LineOver(Exception):
    """The connection has ended before the answer."""


@dataclass(frozen=True, slots=True)
class Line:
    """A connection."""

    ear: Ear
    writer: asyncio.StreamWriter

    async def request(self) -> Seen | None:
        """The next request; None when there is none."""
        try:
            head = (await self.ear.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        line, *fields = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)}
        body = await self.ear.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = line.split(" ")
        return Seen(method, path, headers, body.decode())

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        await self.write("\r\n".join([*lines, "", ""]).encode())

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer, in one go."""
        await self.head(status, {**headers, "Content-Length": str(len(body))})
        await self.write(body)

    def reset(self) -> None:
        """A TCP reset from our side, so nobody is said to have gone."""
        self.ear.deaf = True
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Nothing, until the other side is gone."""
        await asyncio.wait({self.ear.gone})

    async def unless_gone(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Do it, and stop at once when the other side is gone. False when the connection is over."""
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, self.ear.gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task})
        return False


class Outgoing:
    """A body on its way out, in the pieces that the script wants.

    `noted` is called with each frame as soon as its last byte is on the line.
    """

    def __init__(self, line: Line, script: Script, *, chunked: bool, noted: Callable[[Frame], None]) -> None:
        self._line = line
        self._chunked = chunked
        self._noted = noted
        self._split: int | None = script.get("split_at")
        self._coalesce = bool(script.get("coalesce"))
        self._reset_at: int | None = script.get("reset_at_byte")
        self._written = 0
        self._held = b""
        self._due: list[tuple[int, Frame]] = []

    async def put(self, data: bytes, frame: Frame | None = None) -> None:
        self._held += data
        if frame is not None:
            self._due.append((self._written + len(self._held), frame))
        if not self._coalesce:
            await self.flush()

    async def flush(self) -> None:
        """Write what is held back. Raises LineOver at the byte at which the line is to be reset."""
        held, self._held = self._held, b""
        if self._reset_at is not None:
            held = held[: self._reset_at - self._written]
        size = self._split or len(held) or 1
        for start in range(0, len(held), size):
            piece = held[start : start + size]
            self._line.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)
            self._written += len(piece)
            while self._due and self._due[0][0] <= self._written:
                self._noted(self._due.pop(0)[1])
            await self._line.writer.drain()
            await asyncio.sleep(0)
        if self._written == self._reset_at:
            await self.reset()

    async def reset(self) -> None:
        await asyncio.sleep(ARRIVES_WITHIN_S)
        self._line.reset()
        raise LineOver

    async def end(self) -> None:
        """The end in good order."""
        await self.flush()
        if self._reset_at is not None:
            raise ValueError(f"there is no byte {self._reset_at} in a body of {self._written}")
        if self._chunked:
            await self._line.write(b"0\r\n\r\n")


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends answers as the script wants them. `wait` waits at a gate."""

    line: Line
    script: Script
    wire: Wire
    wait: Callable[[str], Coroutine[Any, Any, None]]

    async def document(self, status: int, content: bytes, note: Callable[[Frame], None]) -> bool:
        """An answer in one piece. What is to happen after some chunk happens in the middle of it."""
        headers = {"Content-Type": "application/json"} | self.script.get("headers", {})
        out = Outgoing(self.line, self.script, chunked=False, noted=note)
        if "error_after" in self.script:
            status, content = 500, to_bytes(self.wire.error(500))
        if "garbage_after" in self.script:
            content = (content[: len(content) // 2] + SECRET.encode()).ljust(len(content), b"\xff")
        await self.line.head(status, headers | {"Content-Length": str(len(content))})
        try:
            if self.script.keys() & {"gate_after", "stall_after", "reset_after", "close_after"}:
                await out.put(content[: len(content) // 2])
                content = content[len(content) // 2 :]
                for _, gate in _gates(self.script):
                    await self.wait(gate)
                await self._break(out, None)
            await out.put(content)
            await out.end()
        except LineOver:
            return False
        return True

    async def stream(self, frames: Iterator[Frame], note: Callable[[Frame], None]) -> bool:
        """An answer in events."""
        headers = {"Content-Type": self.wire.media_type, "Cache-Control": "no-cache", "Transfer-Encoding": "chunked"}
        await self.line.head(200, headers | self.script.get("headers", {}))
        out = Outgoing(self.line, self.script, chunked=True, noted=note)
        try:
            await self._events(frames, out)
            if self.script.get("close_at_end"):
                await out.flush()
                return False
            await out.end()
        except LineOver:
            return False
        return True

    async def _events(self, frames: Iterator[Frame], out: Outgoing) -> None:
        said = 0
        times = 2 if self.script.get("duplicate_frames") else 1
        pace = self.script.get("pace", 0)
        for number, frame in enumerate(frames):
            if frame.part and (said == 0 and await self._after(0, number, out)):
                return
            if frame.part and said and pace:
                await asyncio.sleep(pace)
            if frame.last and self.script.get("no_done"):
                continue
            for _ in range(times):
                await out.put(encode(frame, self.script, self.wire.media_type), frame)
            if frame.part:
                said += 1
                if await self._after(said, number + 1, out):
                    return
        for after in [*(self.script[key] for key in AFTER if key in self.script), *dict(_gates(self.script))]:
            if after > said or said == 0:
                raise ValueError(f"there is no chunk {after} in a stream of {said}")

    async def _after(self, said: int, number: int, out: Outgoing) -> bool:
        """Do what is to be done after so many chunks; true when nothing follows."""
        for after, gate in _gates(self.script):
            if after == said:
                await out.flush()
                await self.wait(gate)
        await self._break(out, said)
        if self.script.get("garbage_after") == said:
            await out.put(garbage(self.script, self.wire.media_type))
            return True
        if self.script.get("error_after") == said:
            frame = self.wire.error_frame(number)
            await out.put(encode(frame, self.script, self.wire.media_type))
            return True
        return False

    async def _break(self, out: Outgoing, said: int | None) -> None:
        """Stall, reset or close, if that is to be done after so many chunks; None: if it is to be done at all."""

        def due(key: str) -> bool:
            return key in self.script and said in (None, self.script[key])

        if not due("stall_after") and not due("reset_after") and not due("close_after"):
            return
        await out.flush()
        if due("stall_after"):
            await self.line.hang()
        if due("reset_after"):
            await out.reset()
        raise LineOver


def _gates(script: Script) -> list[tuple[int, str]]:
    """`gate_after` as a list, though it may be given as a single pair."""
    given = script.get("gate_after", [])
    return [(given[0], given[1])] if given and isinstance(given[0], int) else [(after, gate) for after, gate in given]
