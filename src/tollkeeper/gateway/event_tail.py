"""The newest events of the calls of this process, in memory, for who looks at a running server.

A call costs one item of a ring, and one of the queue of each reader. Nothing is encoded before a reader takes it.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tollkeeper.errors import RateLimited
from tollkeeper.gateway.call_events import CallEvent
from tollkeeper.principal import Principal

KEPT = 200
"""Events of the past, of all tenants together."""
QUEUED = 500
"""Events that wait for one reader. What is too old then is dropped and counted."""
MAX_READERS_PER_USER = 5
MAX_READERS_PER_TENANT = 20


class EventReader:
    """Receives the events of one tenant; None: of all tenants."""

    def __init__(self, tenant_id: int | None) -> None:
        self._tenant_id = tenant_id
        self._queue: deque[CallEvent] = deque()
        self._dropped = 0
        self._arrived = asyncio.Event()

    def put(self, event: CallEvent) -> None:
        """Queue an event if it is one of the tenant. The oldest one is dropped where the queue is full."""
        if self._tenant_id not in (None, event.tenant_id):
            return
        if len(self._queue) >= QUEUED:
            self._queue.popleft()
            self._dropped += 1
        self._queue.append(event)
        self._arrived.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait until there are events to take, at most for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()

    def take(self) -> tuple[int, list[CallEvent]]:
        """How many events were dropped since the last time, and those that were not, the oldest first."""
        taken, dropped = list(self._queue), self._dropped
        self._queue.clear()
        self._dropped = 0
        self._arrived.clear()
        return dropped, taken


class EventTail:
    """Listens to calls. `is_draining` says whether the server is about to stop, so that readers end."""

    def __init__(self, is_draining: Callable[[], bool] = lambda: False) -> None:
        self.is_draining = is_draining
        self._kept: deque[CallEvent] = deque(maxlen=KEPT)
        self._readers: set[EventReader] = set()
        self._by_user: Counter[int] = Counter()
        self._by_tenant: Counter[int] = Counter()

    def put(self, event: CallEvent) -> None:
        """Keep an event, and pass it to the readers. Called on the event loop; never blocks."""
        self._kept.append(event)
        for reader in self._readers:
            reader.put(event)

    @contextmanager
    def read(self, caller: Principal, tenant_id: int | None, after_span: str | None = None) -> Iterator[EventReader]:
        """A reader for the length of the block, which has the kept events already; with `after_span`, only those after
        the call with that span, if it is still among them. Raises RateLimited beyond the readers of a user or a tenant.
        """
        with self._counted(caller):
            reader = EventReader(tenant_id)
            kept = list(self._kept)
            spans = [event.trace.span_id for event in kept]
            for event in kept[spans.index(after_span) + 1 :] if after_span in spans else kept:
                reader.put(event)
            self._readers.add(reader)
            try:
                yield reader
            finally:
                self._readers.discard(reader)

    @contextmanager
    def _counted(self, caller: Principal) -> Iterator[None]:
        counts = (
            (self._by_user, caller.user_id, MAX_READERS_PER_USER, "user"),
            (self._by_tenant, caller.tenant_id, MAX_READERS_PER_TENANT, "tenant"),
        )
        for count, owner, most, kind in counts:
            if count[owner] >= most:
                raise RateLimited(f"A {kind} may read {most} streams of events at once. Close one.", retry_after_s=1)
        for count, owner, _, _ in counts:
            count[owner] += 1
        try:
            yield
        finally:
            for count, owner, _, _ in counts:
                count[owner] -= 1
                if not count[owner]:
                    del count[owner]
