"""Processes that a test starts, waits for with a deadline, and ends by their own id."""

import faulthandler
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import AliasChoices

from support.deadlines import TEST_DEADLINE_S
from support.task_stacks import write_tasks
from tollkeeper.settings import Settings

WRITE_STACKS = signal.SIGUSR1
STACKS_TAKE_S = 5.0
TESTS = Path(__file__).parents[2]

_fork_server = multiprocessing.get_context("forkserver")
_fork_server.set_forkserver_preload(
    ["tollkeeper.cli.commands", "tollkeeper.cli.serving", "tollkeeper.database.migrations"]
)
"""Forks each program from a process that has imported the server, because importing it takes as long as most tests."""


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
    """A port on a loopback address that the system gives to no other process while this object holds it.

    The socket is bound but does not listen, so a server that sets SO_REUSEADDR can listen on the same port.
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address, 0))
        self.number: int = self._socket.getsockname()[1]

    def free(self) -> None:
        self._socket.close()


class Program:
    """A Python module that runs as a process, with its output in a file."""

    def __init__(self, arguments: Sequence[str], *, environment: Mapping[str, str], folder: Path, output: Path) -> None:
        """Start `python -m` with these arguments."""
        self.output_path = output
        output.touch()
        self._process = _fork_server.Process(
            target=_run, args=(tuple(arguments), dict(environment), folder, output), daemon=True
        )
        self._process.start()

    @property
    def output(self) -> str:
        """All output so far."""
        return self.output_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def wait_for_answer(self, url: str) -> None:
        """Return when a GET of `url` returns 200. Fails when the process ends or does not answer in time."""
        deadline = time.monotonic() + TEST_DEADLINE_S
        while not _answers(url):
            assert self.running, f"the process ended with {self._process.exitcode}:\n{self.output}"
            assert time.monotonic() < deadline, f"no answer at {url}:\n{self.output}"
            time.sleep(0.02)

    def wait_for_end(self, seconds: float = TEST_DEADLINE_S) -> int:
        """Wait for the process to end. Returns the exit code; a negative one is the number of a signal."""
        self._process.join(seconds)
        if self.running:
            os.kill(self.pid, WRITE_STACKS)
            self._process.join(STACKS_TAKE_S)
        assert self._process.exitcode is not None, f"the process has not ended:\n{self.output}"
        return self._process.exitcode

    def terminate(self, seconds: float = TEST_DEADLINE_S) -> int:
        """Send SIGTERM. Returns the exit code."""
        self._process.terminate()
        return self.wait_for_end(seconds)

    def interrupt(self, seconds: float = TEST_DEADLINE_S) -> int:
        """Send SIGINT, as Ctrl-C does. Returns the exit code."""
        os.kill(self.pid, signal.SIGINT)
        return self.wait_for_end(seconds)

    def kill(self) -> None:
        """Send SIGKILL, in any state of the process. May be called twice."""
        self._process.kill()
        self._process.join(TEST_DEADLINE_S)


def _run(arguments: tuple[str, ...], environment: dict[str, str], folder: Path, output: Path) -> None:
    """In the new process: run the module as `python -m` would."""
    os.chdir(folder)
    signal.signal(WRITE_STACKS, lambda *_: write_tasks(sys.stderr))
    faulthandler.register(WRITE_STACKS, chain=True)
    os.environ.clear()
    os.environ.update(environment)
    with output.open("ab") as file, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
