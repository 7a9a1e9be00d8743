"""The measured servers: the bare forwarder, Tollkeeper on SQLite and PostgreSQL, and peers; each its own process."""

import asyncio
import secrets
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from bench import forwarder
from bench.databases import round_trip_ms, stock_postgres, wheel_postgres
from bench.load import CheckedRequest, http_request, request_json
from bench.population import User, log_in, populate
from bench.processes import (
    SCRIPTS,
    START_TIMEOUT_S,
    Child,
    Cores,
    cpu_seconds,
    free_port,
    listens,
    peak_rss_mb,
    process_tree,
    process_tree_cpu_seconds,
    rss_mb,
    uvicorn_command,
)
from bench.workload import MODEL, ChatApi, Workload
from tollkeeper.database.migrations import migrate
from tollkeeper.settings import Settings

FORWARDER, SQLITE, POSTGRES, STOCK, DISTANT = "forwarder", "sqlite", "postgres", "stock", "distant"
KINDS = (FORWARDER, SQLITE, POSTGRES, STOCK, DISTANT)
"""`postgres` is the server from the package index, `stock` the one that the system has, with its default settings.
`distant` is another of the latter, behind a proxy that delays."""
TENSORZERO, LITELLM = "tensorzero", "litellm"
PEERS = (TENSORZERO, LITELLM)
SERVER, DATABASE = "server", "database"

TOKEN = "sk-bench"
"""The forwarder accepts any token, and a peer is configured with this one."""
UNREACHED_RATE_LIMIT = "1000000/minute"
BCRYPT_ROUNDS = 4  # the minimum: the login is not measured
Fill = Callable[[Settings], Awaitable[list[tuple[str, str]]]]
"""Fills a migrated, empty database. Returns the tenant name and e-mail address of every caller."""
TOLLKEEPER = Path(sys.executable).with_name("tollkeeper")
DELAY_PROXY = SCRIPTS / "bench" / "delay_proxy.py"


@dataclass(slots=True)
class Target:
    """A running server. `completed` counts its calls by workload.

    `counted_costs` has the cost of each further call, whose usage the upstream did not report. `version` is that of a
    peer. `note` is a sentence about the target.
    """

    kind: str
    child: Child
    port: int
    database_pid: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    users: Sequence[User] = ()
    api: ChatApi = field(default_factory=ChatApi)
    completed: Counter[Workload] = field(default_factory=Counter)
    counted_costs: list[int] = field(default_factory=list)
    version: str = ""
    note: str = ""

    @property
    def is_metered(self) -> bool:
        """Whether it is Tollkeeper."""
        return not self.is_peer and self.kind != FORWARDER

    @property
    def is_peer(self) -> bool:
        return self.kind in PEERS

    @property
    def has_children(self) -> bool:
        """Whether it is more than one process."""
        return self.is_peer or self.environment.get("TOLLKEEPER_WORKERS", "1") != "1"

    @property
    def is_lone_only(self) -> bool:
        """Whether only a lone client calls it."""
        return self.kind == DISTANT

    def has(self, workload: Workload) -> bool:
        """Whether this target is measured with this workload. A peer has no counterpart of the native endpoints."""
        if self.is_lone_only:
            return workload is Workload.CALLS
        return not (self.is_peer and workload.is_native)

    @property
    def expected_cost_tokens(self) -> int:
        reported = sum(workload.cost_tokens * calls for workload, calls in self.completed.items())
        return reported + sum(self.counted_costs)

    def make_requests(self, workload: Workload) -> list[CheckedRequest]:
        """Returns one call of each user."""
        if self.is_metered and workload.is_native:
            return [workload.make_native_request(user.token) for user in self.users]
        tokens = [user.token for user in self.users] if self.is_metered else [TOKEN]
        return [workload.make_chat_request(token, self.api) for token in tokens]

    def cpu_seconds(self) -> dict[str, float]:
        """Returns the CPU time so far by part: the server, and PostgreSQL if it is used."""
        pid = self.child.pid
        parts = {SERVER: process_tree_cpu_seconds(pid) if self.has_children else cpu_seconds(pid)}
        if self.database_pid is not None:
            parts[DATABASE] = process_tree_cpu_seconds(self.database_pid)
        return parts

    def rss_mb(self) -> float:
        return sum(map(rss_mb, process_tree(self.child.pid)))

    def peak_rss_mb(self) -> float:
        return sum(map(peak_rss_mb, process_tree(self.child.pid)))


class Testbed:
    """Starts the upstream and the targets in one folder. `cleanup` stops them in the reverse order.

    `database_delay_ms` is what a round trip to the distant database takes longer.
    """

    def __init__(self, folder: Path, cores: Cores, cleanup: ExitStack, database_delay_ms: float = 0.0) -> None:
        self.folder = folder
        self._cores = cores
        self._cleanup = cleanup
        self._database_delay_ms = database_delay_ms
        self._upstream_port = free_port()
        port = self._upstream_port
        self.start_child("upstream", uvicorn_command("bench.upstream:app", port), {}, lambda: listens(port), loads=True)

    async def served_by_upstream(self) -> dict[str, int]:
        """Returns how much the upstream has served: `json`, `streams`, `bursts`, and `moderations`."""
        served: dict[str, int] = await request_json(self._upstream_port, http_request("GET", "/served"))
        return served

    async def start_target(
        self,
        kind: str,
        command: Sequence[str] = (str(TOLLKEEPER),),
        *,
        fill: Fill = populate,
        name: str | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Target:
        """Returns a target that listens. `command` runs the `tollkeeper` command, with more variables if given.

        `fill` fills its database. `name` is that of the database, where there are several of one kind.
        """
        if kind == FORWARDER:
            return self._start_forwarder()
        if kind == SQLITE:
            url, pid = f"sqlite:///{self.folder / (name or kind)}.db", None
            return await self._start_tollkeeper(kind, command, url, pid, fill, environment)
        if kind == POSTGRES:
            url, pid = self._cleanup.enter_context(wheel_postgres(self.folder, self._cores))
        else:
            data = self.folder / f"{name or kind}-postgres"
            url, pid = self._cleanup.enter_context(stock_postgres(data, self._cores))
            if kind == DISTANT:
                return await self._start_distant_tollkeeper(command, data, url, pid)
        return await self._start_tollkeeper(kind, command, url, pid, fill, environment)

    def start_child(
        self,
        name: str,
        args: Sequence[str],
        environment: dict[str, str],
        is_ready: Callable[[], bool],
        *,
        timeout_s: float = START_TIMEOUT_S,
        loads: bool = False,
    ) -> Child:
        """Returns a child that is ready. `loads` means that it belongs to the load, and runs on the load's core."""
        core = self._cores.driver if loads else self._cores.server
        child = Child(name, args, folder=self.folder, environment=environment, cores=self._cores, core=core)
        self._cleanup.callback(child.stop)
        child.wait_until(is_ready, timeout_s)
        return child

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self._upstream_port}/v1"

    def _start_forwarder(self) -> Target:
        port = free_port()
        environment = {forwarder.UPSTREAM_VARIABLE: self.upstream_url}
        command = uvicorn_command("bench.forwarder:app", port)
        return Target(FORWARDER, self.start_child(FORWARDER, command, environment, lambda: listens(port)), port)

    async def _start_distant_tollkeeper(self, command: Sequence[str], data: Path, url: str, pid: int) -> Target:
        distant_url = self._start_delay_proxy(data)
        added_ms = await round_trip_ms(distant_url) - await round_trip_ms(url)
        target = await self._start_tollkeeper(DISTANT, command, distant_url, pid)
        target.note = (
            f"A round trip to the distant database takes {added_ms:.1f} ms longer, measured: the delay of"
            f" {self._database_delay_ms:g} ms, and the time of the proxy itself."
        )
        return target

    def _start_delay_proxy(self, data: Path) -> str:
        """Returns the URL of the database in `data`, through a proxy that delays each direction by half."""
        port = free_port()
        socket, delay_ms = data / ".s.PGSQL.5432", str(self._database_delay_ms / 2)
        command = [sys.executable, str(DELAY_PROXY), str(port), str(socket), delay_ms]
        self.start_child("delay-proxy", command, {}, lambda: listens(port), loads=True)
        return f"postgresql://postgres:@127.0.0.1:{port}/postgres"

    async def _start_tollkeeper(
        self,
        kind: str,
        command: Sequence[str],
        database_url: str,
        database_pid: int | None,
        fill: Fill = populate,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Target:
        """Migrate and fill an empty database, serve it, and log every caller in."""
        await asyncio.to_thread(migrate, database_url)
        settings = Settings(_env_file=None, database_url=database_url, bcrypt_rounds=BCRYPT_ROUNDS)
        emails = await fill(settings)
        port = free_port()
        environment = {
            "TOLLKEEPER_DATABASE_URL": database_url,
            "TOLLKEEPER_SIGNING_SECRET": secrets.token_hex(32),
            "TOLLKEEPER_DATA_KEY": secrets.token_hex(32),
            "TOLLKEEPER_BCRYPT_ROUNDS": str(BCRYPT_ROUNDS),
            "TOLLKEEPER_ACCESS_TOKEN_MINUTES": "120",
            "TOLLKEEPER_RATE_LIMIT_LOGIN": UNREACHED_RATE_LIMIT,
            "TOLLKEEPER_RATE_LIMIT_AI": UNREACHED_RATE_LIMIT,
            "OPENAI_API_KEY": "bench",
            "OPENAI_BASE_URL": self.upstream_url,
            "OPENAI_MODEL": MODEL,
        } | dict(more)
        command = [*command, "serve", "--port", str(port)]
        child = self.start_child(kind, command, environment, lambda: listens(port))
        users = await log_in(port, emails)
        return Target(kind, child, port, database_pid, environment, users)
