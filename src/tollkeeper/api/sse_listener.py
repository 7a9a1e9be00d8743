"""A caller who listens to an answer over HTTP: says each piece, notices when they hang up."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType

from starlette.types import Receive, Send

from tollkeeper.api.formats import charge_headers
from tollkeeper.dialects.sse import PING
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.keys import MAX_STORED_BYTES


class RecordedResponse:
    """What was said, for whoever may ask again; only as much as there is room for where answers are kept.

    Nothing, unless it `keeps`.
    """

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._parts: list[bytes] = []
        self._room = MAX_STORED_BYTES

    def add(self, content: bytes) -> None:
        if not self._keeps:
            return
        self._room -= len(content)
        if self._room >= 0:
            self._parts.append(content)
        else:
            self._parts.clear()

    @property
    def whole(self) -> bytes | None:
        """None, if it is too long to be kept."""
        return b"".join(self._parts) if self._room >= 0 else None


class SseListener:
    """Server-sent events on one response, begun with the first that is to be said. With `keeps`, all of it is `said`.

    While the block lasts, it is noticed when the caller hangs up.
    """

    def __init__(self, say: Callable[[StreamChunk], bytes], receive: Receive, send: Send, *, keeps: bool) -> None:
        self._say = say
        self._receive = receive
        self._send = send
        self._said = RecordedResponse(keeps=keeps)
        self.left = False
        self._hang_up: Callable[[], None] | None = None
        self._reservation: Reservation | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.begun = False

    def __enter__(self) -> "SseListener":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hang_up = None
        for task in self._tasks:
            task.cancel()

    @property
    def said(self) -> bytes | None:
        """None, if it is too long to be kept."""
        return self._said.whole

    def attach(self, hang_up: Callable[[], None], reservation: Reservation) -> None:
        self._hang_up, self._reservation = hang_up, reservation
        if self.left:
            asyncio.get_running_loop().call_soon(hang_up)
        elif not self._tasks:
            self._start(self._watch())

    async def deliver(self, piece: StreamChunk) -> None:
        if content := self._say(piece):
            self._said.add(content)
            if not self.begun:
                await self._begin()
            await self._send({"type": "http.response.body", "body": content, "more_body": True})

    def ping(self) -> None:
        # Until something is said, another attempt may follow this one, with a charge of its own: the head of an answer
        # that begins with a ping names the charge of then. The native doors name the last one in the final event.
        self._start(self._write(PING))

    async def finish(self, content: bytes) -> None:
        """Say the last of it."""
        await self._write(content, more=False)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        """Wait until the caller hangs up."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if self._hang_up is not None:
            self._hang_up()

    async def _write(self, content: bytes, *, more: bool = True) -> None:
        if not self.begun:
            await self._begin()
        await self._send({"type": "http.response.body", "body": content, "more_body": more})

    async def _begin(self) -> None:
        self.begun = True
        headers = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        if self._reservation is not None:
            headers |= charge_headers(self._reservation.charge_id, self._reservation.held.balances)
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})
