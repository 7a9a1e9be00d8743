"""Appends lines to a file, which is rotated by its size: `events.jsonl`, then `events.jsonl.1`, and so on.

Several processes may write to the same file: a lock beside it orders their batches and their rotations. A process that
is frozen with the lock holds up the rotation, but not the lines of the others.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tollkeeper.event_sinks.sink import SinkFailed
from tollkeeper.private_files import FILE_MODE, create_private_folder, narrow_mode

LOCK_WAIT_S = 1.0
LOCK_POLL_S = 0.01


class JsonlFile:
    """Keeps `max_files` files of about `max_bytes` each, the newest with the name of `path`. All have mode 0600."""

    def __init__(self, path: Path, *, max_bytes: int, max_files: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._file: int | None = None

    def write(self, lines: Sequence[bytes]) -> None:
        """Append all lines, or none. Raises SinkFailed."""
        try:
            create_private_folder(self._path.parent)
            with self._locked() as has_lock:
                self._append(b"".join(lines), may_rotate=has_lock)
        except OSError as error:
            self.close()
            raise SinkFailed(f"{self._path}: {error.strerror or type(error).__name__}") from None

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None

    def _append(self, content: bytes, *, may_rotate: bool) -> None:
        file = self._open_current()
        size = os.fstat(file).st_size
        if may_rotate and size and size + len(content) > self._max_bytes:
            self._rotate()
            file, size = self._open_current(), 0
        if size and os.pread(file, 1, size - 1) != b"\n":  # a process was killed while it wrote
            content = b"\n" + content
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            if may_rotate and len(rest) < len(content):
                os.ftruncate(file, size)  # no half of a line remains, and the batch is written again as a whole
            raise

    def _open_current(self) -> int:
        """The file of this name: another process may have rotated the one that is open."""
        if self._file is not None:
            try:
                if os.path.samestat(os.fstat(self._file), self._path.stat()):
                    return self._file
            except FileNotFoundError:
                pass
            self.close()
        self._file = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
        narrow_mode(self._path)
        return self._file

    def _rotate(self) -> None:
        for number in range(self._max_files - 1, 0, -1):
            older = self._numbered(number)
            newer = self._numbered(number - 1)
            with suppress(FileNotFoundError):
                newer.replace(older)
        if self._max_files == 1:
            self._path.unlink(missing_ok=True)
        self.close()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Holds the lock for the block. Yields False if another process keeps it for longer than LOCK_WAIT_S."""
        path = self._path.with_name(f"{self._path.name}.lock")
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE)
        try:
            give_up_at = time.monotonic() + LOCK_WAIT_S
            while not (has_lock := _try_lock(lock)) and time.monotonic() < give_up_at:
                time.sleep(LOCK_POLL_S)
            yield has_lock
        finally:
            os.close(lock)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
