"""A bounded queue and a thread that empties it. What does not fit into the queue is dropped and counted.

So a slow or dead sink costs a call no more than an item of the queue. The thread is not notified of an item, because
that would cost more than the item: it looks every FLUSH_INTERVAL_S.
"""

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import structlog

FLUSH_INTERVAL_S = 0.2
MAX_BATCH = 200
"""Items that are written at once."""
ITEMS_PER_TURN = 16
"""Items that are encoded before the event loop's thread may have Python's global lock."""
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 30.0
"""The pauses before a batch is written again that could not be written. Each is twice the one before."""
MAX_STOP_S = 4.0
"""How long a stop waits until the queue is written. What is left then is dropped."""
MAX_WRITE_S = 3.0
"""How long one write may take: a stop waits for the one that runs."""

Item = TypeVar("Item")
log = structlog.get_logger("tollkeeper.events")


class SinkFailed(Exception):
    """The lines were not written, and may be written later. The text says why, and has nothing of the lines."""


class LinesRejected(Exception):
    """The lines were refused for their content: to write them again would not help."""


class Writer(Protocol):
    """Writes lines, in a thread of its own. Each line has its line end."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Raises SinkFailed, LinesRejected."""
        ...

    def close(self) -> None: ...


class Sink(Generic[Item]):
    """Passes items to the `writer`, as the lines that `encode` makes of them. `capacity` bounds the queue, in items."""

    def __init__(
        self, name: str, encode: Callable[[Item], bytes], make_writer: Callable[[], Writer], *, capacity: int
    ) -> None:
        self.name = name
        self._encode = encode
        self._make_writer = make_writer
        self._capacity = capacity
        self._queue: deque[Item] = deque()
        self._overflowed = 0  # changed by the event loop's thread only, as `_lost` by the sink's
        self._lost = 0
        self._logged = 0
        self._failing = False
        self._stopping = threading.Event()
        self._stop_at = 0.0
        self._thread: threading.Thread | None = None

    @property
    def queued(self) -> int:
        """Items that wait to be written."""
        return len(self._queue)

    @property
    def dropped(self) -> int:
        """Items that were dropped so far."""
        return self._overflowed + self._lost

    @property
    def is_failing(self) -> bool:
        """Whether the last write has failed."""
        return self._failing

    def put(self, item: Item) -> None:
        """Queue an item, or drop it if the queue is full. Called on the event loop; never blocks."""
        if len(self._queue) < self._capacity:
            self._queue.append(item)
        else:
            self._overflowed += 1

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name=f"events-{self.name}", daemon=True)
        self._thread.start()

    async def stop(self, max_s: float = MAX_STOP_S) -> None:
        """Write what is queued, for at most `max_s` seconds."""
        self._stop_at = time.monotonic() + max_s
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, max_s + MAX_WRITE_S)
        self._log_dropped()

    def _run(self) -> None:
        writer = self._make_writer()
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(FLUSH_INTERVAL_S)
            while self._queue:
                self._write(writer, [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))])
            if not stopping and not self._failing:
                self._log_dropped()
        writer.close()

    def _write(self, writer: Writer, items: Sequence[Item]) -> None:
        """Write a batch. Does not return before it is written, rejected, or the time of the stop is over."""
        lines = self._lines(items)
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                writer.write(lines)
                self._failing = False
                return
            except LinesRejected as rejection:
                log.error("events.rejected", sink=self.name, calls=len(items), reason=str(rejection))
                self._lost += len(items)
                return
            except SinkFailed as failure:
                if not self._failing:
                    log.error("events.sink_failed", sink=self.name, reason=str(failure))
                self._failing = True
            except Exception:
                log.exception("events.not_written", sink=self.name, calls=len(items))
                self._lost += len(items)
                return
            if self._stopping.is_set() and time.monotonic() + pause_s > self._stop_at:
                self._lost += len(items) + len(self._queue)
                self._queue.clear()
                return
            if self._stopping.wait(pause_s * (0.5 + random.random() / 2)):
                time.sleep(FIRST_PAUSE_S)
            pause_s = FIRST_PAUSE_S if self._stopping.is_set() else min(2 * pause_s, MAX_PAUSE_S)

    def _lines(self, items: Sequence[Item]) -> list[bytes]:
        lines = []
        for number, item in enumerate(items, 1):
            try:
                lines.append(self._encode(item))
            except Exception:
                log.exception("events.not_encoded", sink=self.name)
                self._lost += 1
            if number % ITEMS_PER_TURN == 0:
                time.sleep(0)
        return lines

    def _log_dropped(self) -> None:
        if (dropped := self.dropped) > self._logged:
            log.error("events.dropped", sink=self.name, calls=dropped - self._logged)
            self._logged = dropped
