"""A PostgreSQL that only one test uses, so that it can stop, restart, and be replaced by its standby.

It is the one that the system has installed, with default settings.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.postgres_servers import STARTS_WITHIN_S, find_stock, skip_without_stock


class OwnPostgres:
    """A server with its data in `folder`, which other processes reach through a socket in it."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._user = pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else None
        folder.mkdir()
        if self._user is not None:
            os.chown(folder, self._user, -1)

    @property
    def url(self) -> str:
        return f"postgresql://postgres:@/postgres?host={self._folder}"

    @property
    def socket(self) -> str:
        """The path of the server's socket."""
        return f"{self._folder}/.s.PGSQL.5432"

    def create(self) -> "OwnPostgres":
        """Create an empty cluster, and start."""
        self._run("initdb", "-U", "postgres", "-D", str(self._data), "--no-sync")
        return self.start()

    def create_standby(self, primary: "OwnPostgres") -> "OwnPostgres":
        """Become a standby of a running server, and start."""
        source = f"host={primary._folder} user=postgres application_name=standby"
        self._run("pg_basebackup", "-D", str(self._data), "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        return self.start()

    def start(self) -> "OwnPostgres":
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder}"
        self._control("start", "-l", str(self._folder / "log"), "-o", options)
        return self

    def stop(self, mode: str = "fast") -> None:
        """Stop: `fast` ends transactions, `immediate` is like a crash."""
        self._control("stop", "-m", mode)

    def promote(self) -> None:
        """Make a standby the primary."""
        self._control("promote")

    def configure(self, name: str, value: str) -> None:
        """Change a setting of the running server."""
        for statement in (f"ALTER SYSTEM SET {name} = '{value}'", "SELECT pg_reload_conf()"):
            self._run("psql", "-h", str(self._folder), "-U", "postgres", "-c", statement)

    @property
    def running(self) -> bool:
        return (self._data / "postmaster.pid").exists()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _control(self, *words: str) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-t", STARTS_WITHIN_S, *words)

    def _run(self, program: str, *words: str) -> None:
        with (self._folder / f"{program}.out").open("ab") as output:  # a pipe would stay open in the server
            ran = subprocess.run(
                [self._binaries / program, *words],
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                user=self._user,
            )
        assert ran.returncode == 0, (program, (self._folder / f"{program}.out").read_text())


@contextmanager
def own_postgres(count: int = 1) -> Iterator[list[OwnPostgres]]:
    """Servers that are not created yet. All are stopped and deleted in the end.

    Where the system has no PostgreSQL, the test is skipped; in CI it fails.
    """
    binaries = find_stock()
    if binaries is None:
        skip_without_stock()
    folder = Path(tempfile.mkdtemp(prefix="tk-own-postgres-"))
    folder.chmod(0o755)  # PostgreSQL does not run as root
    servers = [OwnPostgres(binaries, folder / str(number)) for number in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            if server.running:
                server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)
