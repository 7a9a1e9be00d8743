"""The measured servers: the bare forwarder, and Tollkeeper on SQLite and PostgreSQL, each a process of its own."""

import asyncio
import secrets
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import forwarder
from bench.databases import stock_postgres, wheel_postgres
from bench.load import CheckedRequest, http_request, request_json
from bench.population import User, log_in, populate
from bench.processes import (
    Child,
    Cores,
    cpu_seconds,
    free_port,
    process_tree_cpu_seconds,
    uvicorn_command,
)
from bench.workload import MODEL, Workload
from tollkeeper.migrations import migrate
from tollkeeper.settings import Settings

FORWARDER, SQLITE, POSTGRES, STOCK = "forwarder", "sqlite", "postgres", "stock"
KINDS = (FORWARDER, SQLITE, POSTGRES, STOCK)
"""`postgres` is the server from the package index, `stock` the one that the system has, with its default settings."""
SERVER, DATABASE = "server", "database"

UNREACHED_RATE_LIMIT = "1000000/minute"
BCRYPT_ROUNDS = 4  # the minimum: the login is not measured
TOLLKEEPER = Path(sys.executable).with_name("tollkeeper")


@dataclass(slots=True)
class Target:
    """A running server. `completed` counts its calls by workload."""

    kind: str
    child: Child
    port: int
    database_pid: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    users: Sequence[User] = ()
    completed: Counter[Workload] = field(default_factory=Counter)

    @property
    def is_metered(self) -> bool:
        return self.kind != FORWARDER

    @property
    def completed_calls(self) -> int:
        return self.completed.total()

    @property
    def expected_cost_tokens(self) -> int:
        return sum(workload.cost_tokens * calls for workload, calls in self.completed.items())

    def make_requests(self, workload: Workload) -> list[CheckedRequest]:
        """Returns one call of each user."""
        tokens = [user.token for user in self.users] if self.is_metered else ["bench"]
        return [workload.make_request(token, metered=self.is_metered) for token in tokens]

    def cpu_seconds(self) -> dict[str, float]:
        """Returns the CPU time so far by part: the server, and PostgreSQL if it is used."""
        parts = {SERVER: cpu_seconds(self.child.pid)}
        if self.database_pid is not None:
            parts[DATABASE] = process_tree_cpu_seconds(self.database_pid)
        return parts


class Testbed:
    """Starts the upstream and the targets in one folder. `cleanup` stops them in the reverse order."""

    def __init__(self, folder: Path, cores: Cores, cleanup: ExitStack) -> None:
        self._folder = folder
        self._cores = cores
        self._cleanup = cleanup
        self._upstream_port = free_port()
        self._start_child(
            "upstream",
            uvicorn_command("bench.upstream:app", self._upstream_port),
            self._upstream_port,
            {},
            cores.driver,
        )

    async def served_by_upstream(self) -> tuple[int, int]:
        """Returns the number of JSON responses and of streams that the upstream has served."""
        served = await request_json(self._upstream_port, http_request("GET", "/served"))
        return served["json"], served["streams"]

    async def start_target(self, kind: str, command: Sequence[str] = (str(TOLLKEEPER),)) -> Target:
        """Returns a target that listens. `command` runs the `tollkeeper` command."""
        if kind == FORWARDER:
            return self._start_forwarder()
        if kind == SQLITE:
            return await self._start_tollkeeper(kind, command, f"sqlite:///{self._folder / 'bench.db'}", None)
        run_postgres = stock_postgres if kind == STOCK else wheel_postgres
        url, pid = self._cleanup.enter_context(run_postgres(self._folder, self._cores))
        return await self._start_tollkeeper(kind, command, url, pid)

    def _start_forwarder(self) -> Target:
        port = free_port()
        environment = {forwarder.UPSTREAM_VARIABLE: self._upstream_url}
        child = self._start_child(
            FORWARDER, uvicorn_command("bench.forwarder:app", port), port, environment, self._cores.server
        )
        return Target(FORWARDER, child, port)

    async def _start_tollkeeper(
        self, kind: str, command: Sequence[str], database_url: str, database_pid: int | None
    ) -> Target:
        """Migrate and populate an empty database, serve it, and log every user in."""
        await asyncio.to_thread(migrate, database_url)
        settings = Settings(_env_file=None, database_url=database_url, bcrypt_rounds=BCRYPT_ROUNDS)
        emails = await populate(settings)
        port = free_port()
        environment = {
            "TOLLKEEPER_DATABASE_URL": database_url,
            "TOLLKEEPER_SIGNING_SECRET": secrets.token_hex(32),
            "TOLLKEEPER_BCRYPT_ROUNDS": str(BCRYPT_ROUNDS),
            "TOLLKEEPER_ACCESS_TOKEN_MINUTES": "120",
            "TOLLKEEPER_RATE_LIMIT_LOGIN": UNREACHED_RATE_LIMIT,
            "TOLLKEEPER_RATE_LIMIT_AI": UNREACHED_RATE_LIMIT,
            "OPENAI_API_KEY": "bench",
            "OPENAI_BASE_URL": self._upstream_url,
            "OPENAI_MODEL": MODEL,
        }
        child = self._start_child(kind, [*command, "serve", "--port", str(port)], port, environment, self._cores.server)
        users = await log_in(port, emails)
        return Target(kind, child, port, database_pid, environment, users)

    @property
    def _upstream_url(self) -> str:
        return f"http://127.0.0.1:{self._upstream_port}/v1"

    def _start_child(self, name: str, args: Sequence[str], port: int, environment: dict[str, str], core: int) -> Child:
        child = Child(name, args, folder=self._folder, environment=environment, cores=self._cores, core=core)
        self._cleanup.callback(child.stop)
        child.wait_until_listening(port)
        return child
