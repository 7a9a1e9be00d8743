"""Processes of a journey: started, waited for, watched and ended by their own id, never longer than a bound."""

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

from patience import PATIENCE_S
from tollkeeper.settings import Settings

TESTS = Path(__file__).parents[2]


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without anything that Tollkeeper reads, and with what is given."""
    ours = {
        name
        for setting in Settings.model_fields.values()
        if isinstance(setting.validation_alias, AliasChoices)
        for name in setting.validation_alias.choices
    }
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"PYTHONPATH": str(TESTS), "PYTHONUNBUFFERED": "1"} | dict(extra)


class ReservedPort:
    """A port on 127.0.0.1 that nobody else is given while this is held.

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
    """A Python module run as a process, its output in a file."""

    def __init__(self, arguments: Sequence[str], *, environment: Mapping[str, str], folder: Path, output: Path) -> None:
        self.output_path = output
        with output.open("ab") as written:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """Everything it has written so far."""
        return self.output_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_for_answer(self, url: str) -> None:
        """Return when a GET of `url` is answered with 200. Fails when the process ends or takes too long."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not _answers(url):
            assert self.running, f"it ended with {self._process.returncode}:\n{self.output}"
            assert time.monotonic() < give_up_at, f"no answer at {url}:\n{self.output}"
            time.sleep(0.02)

    def wait_for_end(self, seconds: float = PATIENCE_S) -> int:
        """The exit code (negative: the signal that ended it)."""
        return self._process.wait(seconds)

    def terminate(self, seconds: float = PATIENCE_S) -> int:
        """SIGTERM, and the exit code."""
        self._process.terminate()
        return self.wait_for_end(seconds)

    def interrupt(self, seconds: float = PATIENCE_S) -> int:
        """Ctrl-C, and the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.wait_for_end(seconds)

    def kill(self) -> None:
        """SIGKILL, whatever state it is in. Safe to call twice."""
        self._process.kill()
        self._process.wait(PATIENCE_S)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
