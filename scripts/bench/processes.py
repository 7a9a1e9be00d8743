"""Child processes: started on a core of their own, waited for, measured from outside, and always ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

SCRIPTS = Path(__file__).resolve().parents[1]
START_S = 30.0
STOP_S = 15.0
KEPT_S = 600
"""How long an idle connection is kept: longer than any client's, so that none is closed while it is written to."""

_CONFIGURING = (
    "TOLLKEEPER_",
    "OPENAI_",
    "DATABASE_URL",
    "PORT",
    "LOG_LEVEL",
    "MAX_TOKENS",
    "TIMEOUT_SECONDS",
    "PYTHON",
    "COVERAGE",
)


class BenchError(Exception):
    """The bench cannot measure what it says it measures."""


class Cores:
    """Which core serves and which one drives. With a single core, or where processes cannot be pinned, nothing is."""

    def __init__(self) -> None:
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.pinned = len(allowed) > 1
        self.server, self.driver = (allowed[0], allowed[-1]) if self.pinned else (0, 0)

    def pin(self, pid: int, core: int) -> None:
        """Bind a process, and the threads and children that it will have, to one core. `pid` 0 is this process."""
        if self.pinned:
            os.sched_setaffinity(pid, {core})


class Child:
    """A running child. What it prints goes to a file beside the others' in the bench's folder."""

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

    def wait_until_listening(self, port: int) -> None:
        """Raises BenchError when it ends, or does not listen within START_S."""
        give_up_at = time.monotonic() + START_S
        while True:
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended at its start:\n{self.tail()}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if time.monotonic() > give_up_at:
                    raise BenchError(f"{self.name} does not listen:\n{self.tail()}") from None
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End it, by force if it must be."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-2_000:]


def clean_environment() -> dict[str, str]:
    """This process's environment without anything that configures a server or its interpreter."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_CONFIGURING)}


def serve_asgi(app: str, port: int) -> list[str]:
    """The command that serves one of this package's applications as fast as uvicorn can."""
    options = (
        "--host 127.0.0.1 --loop uvloop --http httptools --no-access-log --log-level warning --lifespan off"
        f" --timeout-keep-alive {KEPT_S}"
    )
    return [sys.executable, "-m", "uvicorn", app, "--app-dir", str(SCRIPTS), "--port", str(port), *options.split()]


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, over all its threads, those that ended included."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # Linux: the process's own CPU clock (clock_getcpuclockid), in ns
    except (OSError, AttributeError):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def family_cpu_seconds(pid: int) -> float:
    """The same for a process, its children, and those of its children that have ended."""
    ended = psutil.Process(pid).cpu_times()
    total = ended.children_user + ended.children_system
    for one in family(pid):
        try:
            total += cpu_seconds(one)
        except psutil.NoSuchProcess:
            continue  # it ended in this moment
    return float(total)


def main_thread_cpu_seconds(pid: int) -> float:
    """User and system time of a process's main thread so far."""
    thread = next(thread for thread in psutil.Process(pid).threads() if thread.id == pid)
    return float(thread.user_time + thread.system_time)


def peak_rss_mb(pid: int) -> float:
    """The most memory that a process has ever had in RAM, in MB of 10**6 bytes."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return float(psutil.Process(pid).memory_info().rss) / 1e6
