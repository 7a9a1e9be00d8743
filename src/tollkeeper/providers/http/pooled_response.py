"""A response of our own client: what its connection has received, for the one task that reads it."""

import asyncio
from typing import Protocol

from tollkeeper.providers.http.base import DeadlineExceeded, HttpError, MalformedResponse
from tollkeeper.providers.http.response_head import ResponseHead

MAX_BUFFERED_BYTES = 256 * 1024
"""With more unread bytes than this, the connection is not read until the task has taken them."""
MAX_LATE_S = 0.5
"""A deadline that is noticed later than this is late because the event loop was stalled. So much time is left then."""


class Source(Protocol):
    """The connection of a response."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...


class PooledResponse:
    """One response. With `max_bytes`, the body of a success is wanted whole: its reader is woken once, at its end."""

    def __init__(self, source: Source, max_bytes: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._max_bytes = max_bytes
        self._head: ResponseHead | None = None
        self._unread: bytes | bytearray = b""
        self._complete = self._paused = False
        self._error: HttpError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def status(self) -> int:
        assert self._head is not None
        return self._head.status

    def header(self, name: str) -> str | None:
        assert self._head is not None
        value = self._head.fields.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    async def start(self) -> None:
        """Wait for the head; with `max_bytes`, for the whole body of a success. Raises HttpError."""
        while not self._is_ready:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def whole(self) -> bytes:
        blocks = []
        size = 0
        while block := await self.read():
            blocks.append(block)
            size += len(block)
            if self._max_bytes is not None and size > self._max_bytes:
                raise MalformedResponse("the body is too large")
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    async def read(self) -> bytes:
        while not self._unread:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        block, self._unread = self._unread, b""
        self._resume()
        return bytes(block)

    def close(self) -> None:
        if not self._complete:
            self.fail(HttpError("closed"))

    def end_after(self, seconds: float) -> None:
        """Fail with DeadlineExceeded if the response is not complete after that time."""
        due = self._loop.time() + seconds
        self._deadline = self._loop.call_at(due, self._expire, due)

    def receive_head(self, head: ResponseHead) -> None:
        """Called by the connection, once."""
        self._head = head

    def receive(self, block: bytes, *, complete: bool) -> None:
        """Called by the connection with what it has received of the body, and whether that is its end."""
        if not self._unread:
            self._unread = block
        elif block:
            if isinstance(self._unread, bytes):
                self._unread = bytearray(self._unread)
            self._unread += block
        if complete:
            self._complete = True
            self._end()
            self._resume()
        elif len(self._unread) > MAX_BUFFERED_BYTES and self._max_bytes is None and not self._paused:
            self._paused = True
            self._source.pause_reading()
        if self._is_ready or self._error is not None:
            self._wake()

    def fail(self, error: HttpError) -> None:
        """There is no more of the response. What was received before can still be read."""
        if self._error is None and not self._complete:
            self._error = error
            self._end()
            self._source.abort()
            self._wake()

    @property
    def _is_ready(self) -> bool:
        """Whether the task can go on."""
        if self._head is None:
            return False
        is_wanted_whole = self._max_bytes is not None and self._head.status == 200
        return not is_wanted_whole or self._complete or len(self._unread) > (self._max_bytes or 0)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._source.resume_reading()

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _expire(self, due: float) -> None:
        if self._loop.time() - due > MAX_LATE_S:
            self.end_after(MAX_LATE_S)
        else:
            self.fail(DeadlineExceeded())
