"""Processes that a test starts, waits for with a deadline, and ends by their own id."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import AliasChoices

from support.deadlines import TEST_DEADLINE_S
from tollkeeper.settings import Settings

TESTS = Path(__file__).parents[2]


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of this process without the variables that Tollkeeper reads, plus `extra`."""
    ours = {
        name
        for setting in Settings.model_fields.values()
        if isinstance(setting.validation_alias, AliasChoices)
        for name in setting.validation_alias.choices
    }
    others = {name: value for name, value in os.environ.items() if name not in ours}
    return others | {"PYTHONPATH": str(TESTS), "PYTHONUNBUFFERED": "1"} | dict(extra)


class ReservedPort:
    """A port on 127.0.0.1 that the system gives to no other process while this object holds it.

    The socket is bound but does not listen, so a server that sets SO_REUSEADDR can listen on the same port.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def free(self) -> None:
        self._socket.close()


class Program:
    """A Python module that runs as a process, with its output in a file."""

    def __init__(self, arguments: Sequence[str], *, environment: Mapping[str, str], folder: Path, output: Path) -> None:
        self.output_path = output
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """All output so far."""
        return self.output_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_for_answer(self, url: str) -> None:
        """Return when a GET of `url` returns 200. Fails when the process ends or does not answer in time."""
        deadline = time.monotonic() + TEST_DEADLINE_S
        while not _answers(url):
            assert self.running, f"the process ended with {self._process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"no answer at {url}:\n{self.output}"
            time.sleep(0.02)

    def wait_for_end(self, seconds: float = TEST_DEADLINE_S) -> int:
        """Wait for the process to end. Returns the exit code; a negative one is the number of a signal."""
        return self._process.wait(seconds)

    def terminate(self, seconds: float = TEST_DEADLINE_S) -> int:
        """Send SIGTERM. Returns the exit code."""
        self._process.terminate()
        return self.wait_for_end(seconds)

    def interrupt(self, seconds: float = TEST_DEADLINE_S) -> int:
        """Send SIGINT, as Ctrl-C does. Returns the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.wait_for_end(seconds)

    def kill(self) -> None:
        """Send SIGKILL, in any state of the process. May be called twice."""
        self._process.kill()
        self._process.wait(TEST_DEADLINE_S)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
