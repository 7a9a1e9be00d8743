"""Two nodes on different addresses, with one or two workers, one PostgreSQL, one Redis: each of them fails under load.

At every instant no quota is exceeded (P1), and in the end every admitted call is answered or booked, whatever failed.
The queries of the dashboard show which node is down, that calls go on, and that the holds of the other are swept.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from pathlib import Path

import psutil
import pytest

from journeys.support.node_load import Load, watch
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.tcp_proxy import TcpProxy, tcp_proxy
from journeys.support.users import AMPLE_LIMIT, new_user
from journeys.upstream.handle import Upstream
from support.dashboard import expression_of
from support.deadlines import TEST_DEADLINE_S
from support.depth import DEPTH
from support.own_postgres import OwnPostgres, own_postgres
from support.prometheus import Prometheus, scraping
from support.redis_servers import RedisServer, wheel_binary
from tollkeeper.database.migrations import migrate

pytestmark = pytest.mark.exhaustive

LEASE_S = 1.0
SETTINGS = {
    "TOLLKEEPER_LEASE_SECONDS": str(LEASE_S),
    "TOLLKEEPER_SWEEP_SECONDS": "0.2",
    "TOLLKEEPER_RATE_LIMIT_AI": "100000/minute",
    "TOLLKEEPER_BREAKER_FAILURES": "0",
}
ADDRESSES = ("127.0.0.2", "127.0.0.3")
LIMITS = (AMPLE_LIMIT, AMPLE_LIMIT, 1_000)
"""Of the callers, in tokens. The calls of the last are soon refused."""
STORM = 100
CONNECTIONS = 15
"""The most connections that a worker opens to the database."""
SCRAPE_S = 1
MARGIN_S = 3 * SCRAPE_S
"""Since when there is a sample of a counter before something failed, even if a scrape took too long."""


class Dashboard:
    """What the deployed dashboard and alerts show of two nodes, by the addresses at which Prometheus scrapes them."""

    def __init__(self, prometheus: Prometheus, targets: Sequence[str]) -> None:
        self._prometheus = prometheus
        self._targets = targets

    async def shows_failure(self, failed: int, begun: float) -> None:
        """Wait until a node is seen to be down, while the other one answers calls and sweeps the holds of the first."""
        down, up = self._targets[failed], self._targets[1 - failed]
        await self._wait_for_panel("Overruns and swept charges", "tollkeeper_swept_charges_total", up, begun - MARGIN_S)
        await self._prometheus.wait_for(f'up{{instance="{down}"}} == 0')
        await self._prometheus.wait_for(
            f'ALERTS{{alertname="TollkeeperDown",alertstate="pending",instance="{down}"}}'
            f' unless on() ALERTS{{alertname="TollkeeperDown",instance="{up}"}}'
        )
        await self._wait_for_panel("Calls by surface", "gen_ai_server_request_duration_seconds_count", up, begun)

    async def shows_recovery(self, failed: int) -> None:
        """Wait until a node is seen to be up, and to answer calls."""
        begun, target = time.monotonic(), self._targets[failed]
        await self._wait_for_panel("Calls by surface", "gen_ai_server_request_duration_seconds_count", target, begun)
        await self._prometheus.wait_for(f'up{{instance="{target}"}} == 1')
        await self._prometheus.wait_for(f'absent(ALERTS{{alertname="TollkeeperDown",instance="{target}"}})')

    async def _wait_for_panel(self, title: str, metric: str, target: str, begun: float) -> None:
        """Until the panel shows a rate above 0 for this node since a time of the monotonic clock."""
        async with asyncio.timeout(TEST_DEADLINE_S):
            while True:
                interval = f"{int(1000 * (time.monotonic() - begun)) + 1}ms"
                expression = expression_of(title, metric, instance=target, interval=interval)
                if await self._prometheus.query(f"({expression}) > 0"):
                    return
                await asyncio.sleep(0.1)


class Nodes:
    """Two servers, each with a proxy of its own to the database, which has a standby, and one Redis."""

    def __init__(
        self,
        servers: list[Server],
        proxies: list[TcpProxy],
        database: OwnPostgres,
        standby: OwnPostgres,
        redis: RedisServer,
        dashboard: "Dashboard",
    ) -> None:
        self.redis = redis
        self.dashboard = dashboard
        self.servers = servers
        self.proxies = proxies
        self.database = database
        self.standby = standby

    async def cut_off(self) -> None:
        """One server loses the database for longer than its leases; the other goes on."""
        await self.proxies[0].cut()
        await asyncio.sleep(2 * LEASE_S)
        await self.proxies[0].restore()

    async def slow_down(self) -> None:
        """One server's way to the database becomes long."""
        self.proxies[1].delay(0.05)
        await asyncio.sleep(LEASE_S)
        self.proxies[1].delay(0)

    async def freeze(self) -> None:
        """One node stands still for longer than its leases: the other closes its charges."""
        frozen, begun = _processes(self.servers[0]), time.monotonic()
        for process in frozen:
            process.suspend()
        await self.dashboard.shows_failure(0, begun)
        await asyncio.sleep(3 * LEASE_S - (time.monotonic() - begun))
        for process in frozen:
            process.resume()
        await self.dashboard.shows_recovery(0)

    async def kill_worker(self) -> None:
        """The supervisor replaces it. A node of one process has none."""
        for worker in _processes(self.servers[1])[1:2]:
            worker.kill()
            await asyncio.sleep(LEASE_S)

    async def kill(self) -> None:
        begun = time.monotonic()
        for process in _processes(self.servers[1]):
            process.kill()
        self.servers[1].program.kill()
        await self.dashboard.shows_failure(1, begun)
        await asyncio.to_thread(self.servers[1].start)
        await self.dashboard.shows_recovery(1)

    async def restart_redis(self) -> None:
        """It comes back empty."""
        self.redis.stop()
        await asyncio.sleep(LEASE_S)
        await asyncio.to_thread(self.redis.start)

    async def restart_database(self) -> None:
        await asyncio.to_thread(self.database.stop, "immediate")
        await asyncio.to_thread(self.database.start)

    async def fail_over(self) -> None:
        """The database crashes, and its standby takes over at another address."""
        await asyncio.to_thread(self.database.stop, "immediate")
        await asyncio.to_thread(self.standby.promote)
        self.database = self.standby
        for proxy, server in zip(self.proxies, self.servers, strict=True):
            server.database_url = self.database.url
            await proxy.switch(partial(asyncio.open_unix_connection, self.database.socket))


def _processes(server: Server) -> list[psutil.Process]:
    """The supervisor of a server, and its workers; or its only process."""
    supervisor = psutil.Process(server.program.pid)
    return [supervisor, *supervisor.children()]


@pytest.fixture
def databases() -> Iterator[tuple[OwnPostgres, OwnPostgres]]:
    """A primary with a migrated database, and a standby that has every transaction that was answered."""
    with own_postgres(2) as (primary, standby):
        migrate(primary.create().url)
        standby.create_standby(primary)
        primary.configure("synchronous_standby_names", "*")
        yield primary, standby


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.prove_only)], ids="{} workers".format)
async def nodes(
    request: pytest.FixtureRequest,
    databases: tuple[OwnPostgres, OwnPostgres],
    make_server: Callable[..., Server],
    own_upstream: Upstream,
    tmp_path: Path,
) -> AsyncIterator[Nodes]:
    primary, standby = databases
    async with AsyncExitStack() as stack:
        redis_port = ReservedPort()
        stack.callback(redis_port.free)
        redis = RedisServer(wheel_binary(), redis_port.number, tmp_path).start()
        stack.callback(redis.stop)
        servers, proxies, targets = [], [], []
        for address in ADDRESSES:
            port, metrics_port = ReservedPort(), ReservedPort(address)
            stack.callback(port.free)
            stack.callback(metrics_port.free)
            targets.append(f"{address}:{metrics_port.number}")
            connect = partial(asyncio.open_unix_connection, primary.socket)
            proxies.append(await stack.enter_async_context(tcp_proxy(port.number, connect)))
            server = make_server(
                primary.url, address, TOLLKEEPER_HOST=address, OPENAI_BASE_URL=own_upstream.base_url, **SETTINGS
            ).configure(
                TOLLKEEPER_DATABASE_URL=f"postgresql://postgres:@127.0.0.1:{port.number}/postgres",
                TOLLKEEPER_LIMITS_STORE=redis.url,
                TOLLKEEPER_WORKERS=str(request.param),
                TOLLKEEPER_METRICS_PORT=str(metrics_port.number),
            )
            servers.append(await asyncio.to_thread(server.start))
        folder = tmp_path / "prometheus"
        folder.mkdir()
        prometheus = await stack.enter_async_context(scraping(targets, folder, interval=f"{SCRAPE_S}s"))
        await prometheus.wait_for(f"sum(up) == {len(targets)}")
        yield Nodes(servers, proxies, primary, standby, redis, Dashboard(prometheus, targets))


async def test_whatever_fails_no_quota_is_exceeded_and_every_call_is_answered_or_booked(
    nodes: Nodes, own_upstream: Upstream
) -> None:
    steps = [nodes.slow_down, nodes.freeze, nodes.cut_off, nodes.restart_redis, nodes.kill, nodes.kill_worker]
    steps += [nodes.restart_database]
    rounds = 1 + DEPTH.kills // 25
    async with asyncio.timeout(DEPTH.test_may_take_s), AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(new_user(nodes.servers[0], limit=limit)) for limit in LIMITS]
        seen = await stack.enter_async_context(watch(lambda: nodes.database.url))
        load = Load(nodes.servers, own_upstream, count(100))
        await load.start(callers, stack)
        await load.served(10)
        for step in (*steps * rounds, nodes.fail_over):
            async with load.open_calls(callers[0]):
                await step()
            await load.served(10)
        await load.call_at_once(callers[0], STORM)
        await load.stop()
        await load.check()
        assert seen.snapshots > 10
        assert seen.connections <= 1 + 2 * len(nodes.servers) * CONNECTIONS
        assert any(reply.status == 429 for reply in load.replies), "the tight quota refused nothing"
    assert "open holds: 0\n" in await asyncio.to_thread(nodes.servers[0].command, "ledger", "verify")
    for server in nodes.servers:
        await asyncio.to_thread(server.stop)
