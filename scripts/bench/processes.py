"""Child processes: starts them on a core, waits until they listen, measures them from outside, and stops them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

SCRIPTS = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
KEEP_ALIVE_S = 600
"""How long a server keeps an idle connection: longer than any client, so that the server never closes one in use."""

_CONFIGURATION_PREFIXES = (
    "TOLLKEEPER_",
    "OPENAI_",
    "LITELLM_",
    "TENSORZERO_",
    "DATABASE_URL",
    "PORT",
    "LOG_LEVEL",
    "MAX_TOKENS",
    "TIMEOUT_SECONDS",
    "PYTHON",
    "COVERAGE",
)


class BenchError(Exception):
    """The measurement failed or is invalid."""


class Cores:
    """The cores of the measured server and of the load. With one core, without affinity, or without `pins`, nothing is
    pinned.
    """

    def __init__(self, *, pins: bool = True) -> None:
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.pinned = pins and len(allowed) > 1
        self.server, self.driver = (allowed[0], allowed[-1]) if self.pinned else (0, 0)

    def pin(self, pid: int, core: int) -> None:
        """Bind a process, and its later threads and children, to one core. `pid` 0 is this process."""
        if self.pinned:
            os.sched_setaffinity(pid, {core})


class Child:
    """A running child process. Its output goes to a log file in the bench's folder."""

    def __init__(
        self, name: str, args: Sequence[str], *, folder: Path, environment: Mapping[str, str], cores: Cores, core: int
    ) -> None:
        self.name = name
        self.folder = folder
        self._log = folder / f"{name}.log"
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                args,
                cwd=folder,
                env=clean_environment() | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        cores.pin(self.process.pid, core)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Raises BenchError when the child ends, or is not ready within the time."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended during its start:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} does not listen:\n{self._log_tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Send SIGTERM; after STOP_TIMEOUT_S, SIGKILL."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-2_000:]


def listens(port: int) -> bool:
    """Whether a process listens on the port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def clean_environment() -> dict[str, str]:
    """Returns this process's environment without the variables that configure a server or its interpreter."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_CONFIGURATION_PREFIXES)}


def uvicorn_command(app: str, port: int) -> list[str]:
    """Returns the command that serves one of this package's ASGI applications with uvicorn's fastest options."""
    options = (
        "--host 127.0.0.1 --loop uvloop --http httptools --no-access-log --log-level warning --lifespan off"
        f" --timeout-keep-alive {KEEP_ALIVE_S}"
    )
    return [sys.executable, "-m", "uvicorn", app, "--app-dir", str(SCRIPTS), "--port", str(port), *options.split()]


def free_port() -> int:
    """Returns a port that no process listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """Returns the user and system time of a process so far, over all its threads, including ended ones."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # Linux: the process's own CPU clock (clock_getcpuclockid)
    except (OSError, AttributeError):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def process_tree(pid: int) -> list[int]:
    """Returns the process ids of a process and all its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def process_tree_cpu_seconds(pid: int) -> float:
    """Returns the user and system time of a process, its descendants, and its ended children."""
    times = psutil.Process(pid).cpu_times()
    total = times.children_user + times.children_system
    for member in process_tree(pid):
        try:
            total += cpu_seconds(member)
        except psutil.NoSuchProcess:
            continue  # it has ended meanwhile
    return float(total)


def main_thread_cpu_seconds(pid: int) -> float:
    """Returns the user and system time of a process's main thread so far."""
    thread = next(thread for thread in psutil.Process(pid).threads() if thread.id == pid)
    return float(thread.user_time + thread.system_time)


def rss_mb(pid: int) -> float:
    """Returns the resident set size of a process, in MB of 10**6 bytes."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def peak_rss_mb(pid: int) -> float:
    """Returns the peak resident set size of a process, in MB of 10**6 bytes. Without /proc, the present size.

    It is 0 for a process that has ended, and that its parent has not waited for.
    """
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(lines[0].split()[1]) * 1024 / 1e6 if lines else 0.0
    return rss_mb(pid)
