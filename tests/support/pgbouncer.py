"""A pgbouncer in transaction mode before a PostgreSQL of the tests: each transaction gets another connection."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from journeys.support.processes import ReservedPort

PGBOUNCER_IS_MISSING = "pgbouncer not found"
STOPS_WITHIN_S = 10.0
POOL_SIZE = 6
CONFIGURATION = """
[databases]
* = host={host} port={server_port} user={user} pool_size={size} min_pool_size={size}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 500
server_round_robin = 1
log_connections = 0
log_disconnections = 0
"""
"""Connections take turns, so that hardly any two transactions of a client run on the same one."""


@contextmanager
def pgbouncer(database_url: str) -> Iterator[str]:
    """Start a pgbouncer. Yields the URL of the same database through it.

    Where the program is missing, the test is skipped; in CI it fails.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(PGBOUNCER_IS_MISSING, pytrace=False)
        pytest.skip(f"{PGBOUNCER_IS_MISSING}: apt-get install pgbouncer")
    parts = urlsplit(database_url)
    port, user = ReservedPort(), parts.username or "postgres"
    with tempfile.TemporaryDirectory(prefix="tk-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # root may not run it, so another user does
        host = parse_qs(parts.query).get("host", [parts.hostname or "127.0.0.1"])[0]
        written = CONFIGURATION.format(
            host=host, server_port=parts.port or 5432, user=user, size=POOL_SIZE, port=port.number
        )
        (folder / "pgbouncer.ini").write_text(written)
        runs_as = _owner(Path(host)) if os.geteuid() == 0 else None
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [program, str(folder / "pgbouncer.ini")], stdout=output, stderr=output, user=runs_as
            )
        try:
            _wait_until_it_listens(process, port.number, folder / "output")
            yield f"postgresql://{user}:@127.0.0.1:{port.number}{parts.path}"
        finally:
            process.terminate()
            process.wait(STOPS_WITHIN_S)
            port.free()


def _owner(sockets: Path) -> int:
    """The user of the server, who can reach its socket; for a server without one, PostgreSQL's user."""
    return sockets.stat().st_uid if sockets.is_dir() else pwd.getpwnam("postgres").pw_uid


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + STOPS_WITHIN_S
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.02)
