"""Delivers a stream to an HTTP client as server-sent events, and notices when the client disconnects."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType

from starlette.types import Receive, Send

from tollkeeper.api.formats import cache_headers, dropped_header, fallback_header
from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.sse import PING
from tollkeeper.gateway.cache_status import CacheStatus
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.idempotency_keys import MAX_STORED_BYTES
from tollkeeper.quota.rules.operations import Balance, Unenforced


class RecordedResponse:
    """Records what was sent, up to MAX_STORED_BYTES, to be stored for an idempotency key. If not `enabled`, nothing."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._sent: list[bytes] = []
        self._bytes_left = MAX_STORED_BYTES

    def add(self, content: bytes) -> None:
        if not self._enabled:
            return
        self._bytes_left -= len(content)
        if self._bytes_left >= 0:
            self._sent.append(content)
        else:
            self._sent.clear()

    @property
    def content(self) -> bytes | None:
        """All that was sent; None if it is too long to be stored."""
        return b"".join(self._sent) if self._bytes_left >= 0 else None


class SseListener:
    """Sends server-sent events in one response. The response begins with the first event, so an error can replace it.

    Used as a context manager: it watches for a disconnect of the client until the block ends. `charge_headers` returns
    the headers for a charge, its balances, and quotas that only report. `dropped` is read when the response begins.
    """

    def __init__(
        self,
        render_chunk: Callable[[StreamChunk], bytes],
        receive: Receive,
        send: Send,
        charge_headers: Callable[[str, Sequence[Balance], Sequence[Unenforced]], dict[str, str]],
        *,
        record: bool,
        dropped: Dropped | None = None,
    ) -> None:
        self._render_chunk = render_chunk
        self._receive = receive
        self._send = send
        self._charge_headers = charge_headers
        self._recorded = RecordedResponse(enabled=record)
        self._dropped = dropped
        self.left = False
        self.cache_status: CacheStatus | None = None
        self._on_disconnect: Callable[[], None] | None = None
        self._reservation: Reservation | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.begun = False

    def __enter__(self) -> "SseListener":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_disconnect = None
        for task in self._tasks:
            task.cancel()

    @property
    def recorded(self) -> bytes | None:
        """All chunks that were sent; None if they are too long to be stored. Empty without `record`."""
        return self._recorded.content

    def attach(self, on_disconnect: Callable[[], None], reservation: Reservation) -> None:
        self._on_disconnect, self._reservation = on_disconnect, reservation
        if self.left:
            asyncio.get_running_loop().call_soon(on_disconnect)
        elif not self._tasks:
            self._start(self._watch())

    async def deliver(self, chunk: StreamChunk) -> None:
        if content := self._render_chunk(chunk):
            self._recorded.add(content)
            if not self.begun:
                await self._begin()
            await self._send({"type": "http.response.body", "body": content, "more_body": True})

    def ping(self) -> None:
        # Until the first chunk, another attempt with its own charge may follow this one. If a ping begins the response,
        # the headers name the charge of this attempt. On /ai/*, the final event names the charge of the last attempt.
        self._start(self._write(PING))

    async def finish(self, content: bytes) -> None:
        """Send the last content and end the response."""
        await self._write(content, more=False)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        """Wait until the client disconnects."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if self._on_disconnect is not None:
            self._on_disconnect()

    async def _write(self, content: bytes, *, more: bool = True) -> None:
        if not self.begun:
            await self._begin()
        await self._send({"type": "http.response.body", "body": content, "more_body": more})

    async def _begin(self) -> None:
        self.begun = True
        headers = {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        if self.cache_status is not None:
            headers |= cache_headers(self.cache_status)
            if (charge := self.cache_status.charge) is not None:
                headers |= self._charge_headers(charge.charge_id, charge.balances, charge.would_refuse)
        if self._reservation is not None:
            hold = self._reservation.hold
            headers |= self._charge_headers(self._reservation.charge_id, hold.balances, hold.would_refuse)
            headers |= fallback_header(self._reservation.fallback_for)
        if self._dropped is not None:
            headers |= dropped_header(self._dropped)
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})
