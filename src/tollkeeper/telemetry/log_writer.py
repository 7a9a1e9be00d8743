"""Writes log lines to standard output without making a call wait for who reads them.

While a server runs, a thread writes what a bounded queue has: a pipe whose reader stands still blocks that thread only.
What the queue cannot take is dropped and counted. Before and after that, lines are written at once.
"""

import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from select import PIPE_BUF

import structlog

MAX_QUEUED_BYTES = 4 * 1024 * 1024
"""About ten seconds of a busy process."""
MAX_WRITE_BYTES = 64 * 1024
"""Of lines that are written together to a file. Elsewhere as many as PIPE_BUF, which no line of another process breaks
(POSIX, `write`)."""
MAX_WAIT_S = 1.0
"""How long a line that is written at once waits for room in a pipe. After that it is dropped."""
MAX_STOP_S = 2.0
"""How long a stop waits until the queue is written."""

Write = Callable[[bytes], None]
log = structlog.get_logger("tollkeeper.process")


def write_at_once(text: bytes) -> None:
    """Write to standard output. A failure (a full disk, a closed pipe) is ignored: it must not stop the caller. So is
    the text, if the pipe is not read.
    """
    with suppress(OSError, ValueError, AttributeError):  # the last: a process without standard output
        for piece in _pieces(text, PIPE_BUF):
            if (descriptor := _descriptor()) is None or _has_room(descriptor):
                sys.stdout.write(piece.decode())
                sys.stdout.flush()


class LogWriter:
    """Writes whole lines: the text of each call of `write` ends with a line. `max_bytes` bounds the queue."""

    def __init__(self, *, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._texts: deque[bytes] = deque()
        self._queued_bytes = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._descriptor: int | None = None
        self._max_write_bytes = PIPE_BUF
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Lines that were dropped so far."""

    def write(self, text: bytes) -> None:
        """Queue the text, from any thread. Without the thread of the writer, write it at once."""
        if self._thread is None:
            write_at_once(text)
            return
        with self._lock:
            if self._queued_bytes + len(text) > self._max_bytes:
                self.dropped += text.count(b"\n")
                return
            self._texts.append(text)
            self._queued_bytes += len(text)
        if not self._wake.is_set():
            self._wake.set()

    def start(self) -> None:
        """Start the thread, if standard output is a file of the system."""
        self._descriptor = _descriptor()
        if self._descriptor is not None:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                if stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                    self._max_write_bytes = MAX_WRITE_BYTES
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def stop(self, max_s: float = MAX_STOP_S) -> None:
        """Write what is queued, for at most `max_s` seconds. A thread that is blocked ends with the process."""
        thread = self._thread
        if thread is None:
            return
        self._stopping = True
        self._wake.set()
        thread.join(max_s)
        self._thread = None
        with self._lock:
            self.dropped += sum(text.count(b"\n") for text in self._texts)
            self._texts.clear()

    def _run(self) -> None:
        logged = 0
        while not self._stopping or self._texts:
            self._wake.wait()
            self._wake.clear()
            while text := self._take():
                for piece in _pieces(text, self._max_write_bytes):
                    self._write_piece(piece)
                with self._lock:
                    self._queued_bytes -= len(text)
            if (dropped := self.dropped) > logged:
                log.error("log.dropped", count=dropped - logged)
                logged = dropped
            if self._stopping:
                self._wake.set()

    def _take(self) -> bytes:
        """Takes texts that may be written together from the queue. Empty if there is none."""
        taken: list[bytes] = []
        room = self._max_write_bytes
        with self._lock:
            while self._texts and (not taken or len(self._texts[0]) <= room):
                taken.append(self._texts.popleft())
                room -= len(taken[-1])
        return b"".join(taken)

    def _write_piece(self, piece: bytes) -> None:
        rest = memoryview(piece)
        with suppress(OSError):
            while rest and self._descriptor is not None:
                rest = rest[os.write(self._descriptor, rest) :]


def _pieces(text: bytes, max_bytes: int) -> Iterator[bytes]:
    """Yields the text in pieces of whole lines and at most so many bytes; a line that is longer is one piece."""
    start = 0
    while len(text) - start > max_bytes:
        end = text.rfind(b"\n", start, start + max_bytes) + 1 or text.index(b"\n", start) + 1
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _descriptor() -> int | None:
    try:
        return sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):  # replaced, closed, or absent
        return None


def _has_room(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(MAX_WAIT_S * 1000))
