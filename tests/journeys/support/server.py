"""The real server as a process: `python -m tollkeeper serve`, or a launcher of the tests for the same application."""

import os
import signal
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from journeys.support.processes import Program, ReservedPort, clean_environment

SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f0-journeys"
DATA_KEY = "9a8b7c6d5e4f30211203f4e5d6c7b8a9-journeys"
UNUSED_S = 10.0
"""So long a shared server on PostgreSQL waits for its next use: its background tasks cost as much as a start."""
SERVE = ("tollkeeper", "serve")
SERVE_WITHOUT_WAIT = ("journeys.support.serve_without_wait", "serve")
SERVE_WITH_SLOW_COMMANDS = ("journeys.support.serve_with_slow_commands", "serve")

_unused_since: "dict[Server, float]" = {}
"""The servers that run though no test uses them."""


class Server:
    """One installation: a database, a port, and a server process that can be started again."""

    def __init__(self, database_url: str, folder: Path, settings: Mapping[str, str]) -> None:
        self.database_url = database_url
        self.folder = folder
        self.address = settings.get("TOLLKEEPER_HOST", "127.0.0.1")
        self._port = ReservedPort(self.address)
        self._settings = {
            "TOLLKEEPER_DATABASE_URL": database_url,
            "TOLLKEEPER_PORT": str(self._port.number),
            "TOLLKEEPER_SIGNING_SECRET": SECRET,
            "TOLLKEEPER_DATA_KEY": DATA_KEY,
            "TOLLKEEPER_BCRYPT_ROUNDS": "4",
            "TOLLKEEPER_RATE_LIMIT_LOGIN": "off",
            "TOLLKEEPER_RATE_LIMIT_READS": "off",
            "TOLLKEEPER_RATE_LIMIT_HANDSHAKES": "off",
            "OPENAI_API_KEY": "sk-of-the-operator",
        } | dict(settings)
        self._program: Program | None = None
        self._starts_when_used = False
        self._read = 0
        self._commands = 0

    def configure(self, **settings: str) -> "Server":
        """Change settings of the next start, and of commands."""
        self._settings |= settings
        return self

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def is_on_sqlite(self) -> bool:
        return self.database_url.startswith("sqlite:///")

    @property
    def program(self) -> Program:
        assert self._program is not None, "the server was not started"
        return self._program

    def start(self, arguments: Sequence[str] = SERVE, **settings: str) -> "Server":
        """Start the process, with more settings if given, and wait until it is healthy."""
        self._program = Program(
            arguments,
            environment=clean_environment(self._settings | settings),
            folder=self.folder,
            output=self.folder / "server.out",
        )
        self._program.wait_for_answer(f"{self.url}/health")
        self._starts_when_used = False
        return self

    @contextmanager
    def in_use(self) -> Iterator["Server"]:
        """The process runs during the block, and rests before and after it."""
        _unused_since.pop(self, None)
        if self._starts_when_used:
            self.start()
        self._continue()
        try:
            yield self
        finally:
            self.rest()

    def rest(self) -> "Server":
        """Suspend the process until it is used or stopped. While it rests, its background tasks cost no CPU time.

        One on PostgreSQL is not suspended, because PostgreSQL answers meanwhile: see `stop_unused`.
        """
        if self.program.running and self.is_on_sqlite:
            self._suspend()
        elif self.program.running:
            _unused_since[self] = time.monotonic()
        return self

    def _continue(self) -> None:
        if self.program.running:
            os.kill(self.program.pid, signal.SIGCONT)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The process is stopped, as on a suspended machine."""
        self._suspend()
        try:
            yield
        finally:
            os.kill(self.program.pid, signal.SIGCONT)

    def _suspend(self) -> None:
        """Stop the process while it has no lock on an SQLite file."""
        os.kill(self.program.pid, signal.SIGSTOP)
        while self._is_locked():
            os.kill(self.program.pid, signal.SIGCONT)
            time.sleep(0.01)
            os.kill(self.program.pid, signal.SIGSTOP)

    def _is_locked(self) -> bool:
        """Whether a process holds the write lock of an SQLite file."""
        if not self.is_on_sqlite:
            return False
        path = self.database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False

    def stop(self) -> None:
        """Send SIGTERM. Fails unless the process exits with 0 and has logged no traceback."""
        _unused_since.pop(self, None)
        self._continue()
        code = self.program.terminate()
        self.assert_no_traceback()
        assert code == 0, self.program.output

    def assert_no_traceback(self) -> None:
        """Fails if the server has logged a traceback since the last call of this method."""
        output = self.program.output[self._read :]
        self._read += len(output)
        assert "Traceback" not in output, output

    def command(self, *arguments: str, codes: Sequence[int] = (0,)) -> str:
        """Run a `tollkeeper` command on the same installation, while the server may run. Returns its output. Fails
        unless the command exits with one of `codes`.
        """
        program = Program(
            ("tollkeeper", *arguments),
            environment=clean_environment(self._settings),
            folder=self.folder,
            output=self.folder / f"command-{self._commands}.out",
        )
        self._commands += 1
        assert program.wait_for_end() in codes, program.output
        return program.output

    def background(self, *arguments: str, module: str = "tollkeeper") -> Program:
        """Start a `tollkeeper` command on the same installation without waiting for its end, or a launcher of it."""
        self._commands += 1
        return Program(
            (module, *arguments),
            environment=clean_environment(self._settings),
            folder=self.folder,
            output=self.folder / f"command-{self._commands}-background.out",
        )

    def free(self) -> None:
        """Kill the process if it runs, and give the port back."""
        _unused_since.pop(self, None)
        if self._program is not None and self._program.running:
            self._program.kill()
        self._port.free()

    def stop_until_used(self) -> None:
        """Stop; the next use starts it again."""
        self.stop()
        self._starts_when_used = True


def stop_unused(seconds: float = UNUSED_S) -> None:
    """Stop the servers on PostgreSQL that no test has used for so long, until one does."""
    for server, since in list(_unused_since.items()):
        if time.monotonic() - since >= seconds:
            server.stop_until_used()
