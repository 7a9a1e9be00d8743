"""Metrics of all workers, from any of them.

Each worker answers on a Unix socket with a snapshot of its metrics, and keeps the snapshot in a file beside it. So what
was once shown of a worker still counts after its end, and no sum of counters goes back. A worker that ends in an
orderly way leaves its last snapshot; of one that is killed, what it has counted since the last scrape is lost.
"""

import errno
import fcntl
import os
import select
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from tollkeeper.errors import ConfigurationError
from tollkeeper.private_files import FILE_MODE, FOLDER_MODE
from tollkeeper.workers import snapshots

TIMEOUT_S = 1.0
"""How long all workers together may take to answer. For one that does not, its last snapshot counts."""
CHECK_S = 5.0
"""How often a worker looks whether its socket is still there."""
MAX_ENDED = 16
"""The snapshots of ended workers are added up when there are more."""
MAX_PATH_BYTES = 100
"""Of a Unix socket, with some to spare."""
_ALIVE, _ENDED = ".alive", ".ended"
_HEAD = struct.Struct("!II")
"""Before a snapshot: the id of its process, and its length in bytes."""

log = structlog.get_logger("tollkeeper.workers")


class MetricsFolder:
    """The folder of the sockets and snapshots of one server. Its supervisor makes it, and removes it at its end."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError if sockets in this folder would have too long a path."""
        if len(os.fsencode(path)) > MAX_PATH_BYTES - len("/1234.socket"):
            raise ConfigurationError(f"The path of {path} is too long for a socket: set TMPDIR to a shorter one.")
        self._path = path
        self._supervisor = os.getpid()
        self._lock_for_cleaners()
        self._lock_file = path / "lock"

    def _lock_for_cleaners(self) -> None:
        """Have systemd-tmpfiles, which deletes old temporary files, leave this folder alone while a process runs."""
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(folder, fcntl.LOCK_SH)

    def make(self) -> None:
        """Make the folder anew if it was deleted. Raises OSError, also if it is another user's now."""
        with suppress(FileExistsError):
            self._path.mkdir(FOLDER_MODE)
        if self._path.lstat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "the folder is another user's", str(self._path))

    def socket_of(self, number: int) -> Path:
        return self._path / f"{number}.socket"

    def write(self, pid: int, snapshot: bytes) -> None:
        """Keep the snapshot of a running process."""
        self.make()
        unfinished = self._path / f"{pid}.{threading.get_ident()}.tmp"
        unfinished.write_bytes(snapshot)
        unfinished.replace(self._path / f"{pid}{_ALIVE}")

    def read(self, answered: Iterable[int]) -> Iterator[bytes]:
        """Yields what counts of the processes that have not answered. Called while the folder is locked."""
        skipped = set(map(str, answered))
        for path in sorted(self._path.iterdir()):
            if path.suffix in (_ALIVE, _ENDED) and path.stem not in skipped:
                snapshot = self._read(path)
                yield snapshot if path.suffix == _ALIVE else snapshots.what_stays(snapshot)

    def _read(self, path: Path) -> bytes:
        """A process may end, and its snapshot change its name, after the name was read."""
        with suppress(FileNotFoundError):
            return path.read_bytes()
        return path.with_suffix(_ENDED).read_bytes()

    def end(self, pid: int) -> None:
        """Note the end of a process. Called by the supervisor."""
        with suppress(FileNotFoundError):
            (self._path / f"{pid}{_ALIVE}").replace(self._path / f"{pid}{_ENDED}")
        ended = list(self._path.glob(f"*{_ENDED}"))
        with suppress(BlockingIOError):
            if len(ended) > MAX_ENDED:
                with self.locked(alone=True):
                    total = snapshots.add(snapshots.what_stays(path.read_bytes()) for path in ended)
                    (self._path / f"earlier{_ENDED}").write_bytes(total)
                    for path in ended:
                        if path.stem != "earlier":
                            path.unlink()

    def remove_if_orphaned(self) -> None:
        """Remove the folder if the supervisor is gone, which else does that. Called by a worker that ends."""
        if os.getppid() != self._supervisor:
            shutil.rmtree(self._path, ignore_errors=True)

    @contextmanager
    def locked(self, *, alone: bool) -> Iterator[None]:
        """Keep the snapshots of ended processes from being added up; `alone` to add them up.

        Raises BlockingIOError, only with `alone`, if another process has the lock.
        """
        self.make()
        file = os.open(self._lock_file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
            yield
        finally:
            os.close(file)


class WorkersMetrics(Collector):
    """The metrics of all workers of this server, as a worker sees them."""

    def __init__(self, own: Collector, folder: MetricsFolder, number: int, count: int, pid: int | None = None) -> None:
        """`own` are those of this process, which is one of `count` workers. Another process id is for tests."""
        self._own = own
        self._folder = folder
        self._number = number
        self._others = [other for other in range(1, count + 1) if other != number]
        self._pid = pid or os.getpid()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._answer, name="metrics", daemon=True)
        self._scraping = threading.Lock()

    def start(self) -> None:
        """Answer the other workers, in a thread: also while the event loop is blocked."""
        self._bind()
        self._thread.start()

    def _bind(self) -> None:
        """Without a socket, this worker serves, and its metrics are seen only in its own responses."""
        path = self._folder.socket_of(self._number)
        try:
            self._folder.make()
            path.unlink(missing_ok=True)  # an earlier worker's
            self._listener.bind(str(path))
            self._listener.listen()
        except OSError as error:
            log.error("worker.metrics_hidden", reason=error.strerror or type(error).__name__)

    def stop(self) -> None:
        """Leave the last snapshot. Called when nothing counts any more."""
        self._stops.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(TIMEOUT_S)
        self._listener.close()
        with suppress(OSError):
            self._take()
        self._folder.remove_if_orphaned()

    def collect(self) -> list[Metric]:
        """Ask all other workers, and add up. Blocks for TIMEOUT_S at most."""
        with self._scraping, self._folder.locked(alone=False):
            answers = dict(self._ask_others())
            answers[self._pid] = self._take()
            return snapshots.merge([*answers.values(), *self._folder.read(answers)])

    def _take(self) -> bytes:
        snapshot = snapshots.take(self._own)
        self._folder.write(self._pid, snapshot)
        return snapshot

    def _answer(self) -> None:
        while not self._stops.is_set():
            if not _has_connection(self._listener):
                self._restore()
                continue
            try:
                connection, _ = self._listener.accept()
            except OSError:  # it was shut down, or could not be bound
                self._stops.wait(CHECK_S)
                self._restore()
                continue
            with suppress(OSError), connection:
                connection.settimeout(TIMEOUT_S)
                snapshot = self._take()
                connection.sendall(_HEAD.pack(self._pid, len(snapshot)) + snapshot)

    def _restore(self) -> None:
        """Make the socket anew if it was deleted."""
        if not self._stops.is_set() and not self._folder.socket_of(self._number).exists():
            self._listener.close()
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._bind()

    def _ask_others(self) -> Iterator[tuple[int, bytes]]:
        """Yields the process ids and snapshots of the workers that answer in time."""
        deadline = time.monotonic() + TIMEOUT_S
        connections = []
        for number in self._others:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(TIMEOUT_S)
            try:
                connection.connect(str(self._folder.socket_of(number)))
            except OSError:  # it is being replaced
                connection.close()
            else:
                connections.append(connection)
        for connection in connections:
            with suppress(OSError), connection:
                if (answer := _receive(connection, deadline)) is not None:
                    yield answer


def _has_connection(listener: socket.socket) -> bool:
    """Wait for a connection, for CHECK_S. True also for a socket that takes none any more."""
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    return bool(waiting.poll(CHECK_S * 1000))


def _receive(connection: socket.socket, deadline: float) -> tuple[int, bytes] | None:
    """The process id and the snapshot; None if the other process has ended meanwhile. Raises TimeoutError."""
    received = bytearray()
    while True:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        if not (part := connection.recv(65536)):
            return None
        received += part
        if len(received) >= _HEAD.size:
            pid, size = _HEAD.unpack_from(received)
            if len(received) == _HEAD.size + size:
                return pid, bytes(received[_HEAD.size :])
