"""PostgreSQL fails: it refuses connections, is silent, is read-only, or is gone between COMMIT and answer (P10)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
import pytest

from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.tcp_proxy import Streams, TcpProxy, tcp_proxy
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.stock_postgres

USAGE = {"prompt_tokens": 15, "completion_tokens": 9}


@pytest.fixture
async def database_proxy(any_postgres_url: str) -> AsyncIterator[tuple[TcpProxy, str]]:
    """A proxy to the database, and the URL of the database through the proxy."""
    port = ReservedPort()
    parts = urlsplit(any_postgres_url)

    async def connect() -> Streams:
        if folder := parse_qs(parts.query).get("host"):
            return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.5432")
        return await asyncio.open_connection(parts.hostname, parts.port or 5432)

    credentials = parts.netloc.rpartition("@")[0] or "postgres:"
    async with tcp_proxy(port.number, connect) as proxy:
        yield proxy, f"postgresql://{credentials}@127.0.0.1:{port.number}{parts.path}"
    port.free()


@pytest.fixture
async def server(
    make_server: Callable[..., Server], database_proxy: tuple[TcpProxy, str], upstream: Upstream
) -> AsyncIterator[Server]:
    server = make_server(database_proxy[1], OPENAI_BASE_URL=upstream.base_url)
    await asyncio.to_thread(server.start)
    yield server
    await database_proxy[0].restore()
    await asyncio.to_thread(server.stop)


@pytest.fixture
def proxy(database_proxy: tuple[TcpProxy, str]) -> TcpProxy:
    return database_proxy[0]


async def _stall(proxy: TcpProxy) -> None:
    proxy.stall()


Outage = Callable[[TcpProxy], Awaitable[None]]
OUTAGES = [
    pytest.param(TcpProxy.cut, id="cut"),
    pytest.param(_stall, id="silent", marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize("outage", OUTAGES)
async def test_without_the_database_no_call_is_admitted_and_afterwards_all_work_again(
    server: Server, proxy: TcpProxy, upstream: Upstream, outage: Outage
) -> None:
    async with new_user(server) as caller, asyncio.timeout(TEST_DEADLINE_S):
        assert (await caller.query(caller.marker)).status == 200
        await outage(proxy)
        refused = await asyncio.gather(*(caller.query(caller.marker) for _ in range(5)))
        assert {(reply.status, reply.code) for reply in refused} == {(503, "ledger_unavailable")}
        assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
        async with asyncio.timeout(TEST_DEADLINE_S):
            assert (await caller.get("/health")).status == 503
        assert (await caller.get("/health/live")).status == 200
        async with asyncio.timeout(TEST_DEADLINE_S):
            reading = await caller.get("/me/quota")
        assert (reading.status, reading.code) == (503, "ledger_unavailable")
        assert len(upstream.requests(caller.marker)) == 1
        await proxy.restore()
        await _wait_until_it_serves(caller)
        assert len(upstream.requests(caller.marker)) == 2
        await _wait_until_all_closed(server)
        charges = await caller.charges()
        assert sum(charge["cost"] for charge in charges) == 28
        assert (await caller.quota())["reserved"] == 0
    await assert_ledger_is_consistent(server.database_url)


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_answer_is_returned_although_its_settle_must_wait(
    server: Server, proxy: TcpProxy, upstream: Upstream, outage: Outage
) -> None:
    async with new_user(server) as caller, asyncio.timeout(TEST_DEADLINE_S):
        call = await _in_flight(caller, upstream)
        await outage(proxy)
        upstream.open(caller.marker)
        reply = await call
        assert (reply.status, reply.body["cost"]) == (200, 24)
        assert reply.headers["X-Charge-ID"] == reply.body["query_id"]
        await proxy.restore()
        await _wait_until_all_closed(server)
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["cost"]) == ("settled", "provider", 24)
        assert (await caller.quota())["used"] == 24
    await assert_ledger_is_consistent(server.database_url)


async def test_a_commit_whose_answer_is_lost_is_booked_once(
    server: Server, proxy: TcpProxy, upstream: Upstream
) -> None:
    """The COMMIT of a reserve, then the COMMIT of a settle."""
    async with new_user(server) as caller, asyncio.timeout(TEST_DEADLINE_S):
        proxy.break_after(b"COMMIT")
        call = await _in_flight(caller, upstream)
        assert proxy.broken == 1
        proxy.break_after(b"COMMIT")
        upstream.open(caller.marker)
        reply = await call
        assert proxy.broken == 2
        assert (reply.status, reply.body["cost"]) == (200, 24)
        await _wait_until_all_closed(server)
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["cost"]) == ("settled", "provider", 24)
        assert (await caller.quota())["used"] == 24
        assert len(upstream.requests(caller.marker)) == 1
    await assert_ledger_is_consistent(server.database_url)


async def test_with_a_read_only_database_no_call_is_admitted(
    server: Server, proxy: TcpProxy, upstream: Upstream, any_postgres_url: str
) -> None:
    async with new_user(server) as caller, asyncio.timeout(TEST_DEADLINE_S):
        name = urlsplit(any_postgres_url).path[1:]
        await _administer(any_postgres_url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await proxy.cut()
        await proxy.restore()
        reply = await caller.query(caller.marker)
        assert (reply.status, reply.code) == (503, "ledger_unavailable")
        assert (await caller.get("/health")).status == 503
        assert (await caller.get("/me/quota")).status == 200
        assert upstream.requests(caller.marker) == []
        await _administer(any_postgres_url, f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        await proxy.cut()
        await proxy.restore()
        await _wait_until_it_serves(caller)


async def test_a_log_that_cannot_be_written_does_not_stop_calls(
    server: Server, proxy: TcpProxy, upstream: Upstream
) -> None:
    """The disk of the log is full while the ledger logs an outage."""
    process = psutil.Process(server.program.pid)
    _, hard_limit = process.rlimit(psutil.RLIMIT_FSIZE)
    async with new_user(server) as caller, asyncio.timeout(TEST_DEADLINE_S):
        process.rlimit(psutil.RLIMIT_FSIZE, (0, hard_limit))
        assert (await caller.query(caller.marker)).status == 200
        await proxy.cut()
        assert (await caller.query(caller.marker)).status == 503
        await proxy.restore()
        await _wait_until_it_serves(caller)
        assert len(await caller.charges()) == len(upstream.requests(caller.marker)) == 2
        process.rlimit(psutil.RLIMIT_FSIZE, (hard_limit, hard_limit))
    await assert_ledger_is_consistent(server.database_url)


async def _administer(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(statement)
    finally:
        await connection.close()


async def _in_flight(caller: ApiUser, upstream: Upstream) -> asyncio.Task[Reply]:
    prompt = scripted(caller.marker, gate=caller.marker, usage=USAGE)
    call = asyncio.create_task(caller.query(prompt))
    while not upstream.waiting(caller.marker):
        await asyncio.sleep(0.02)
    return call


async def _wait_until_it_serves(caller: ApiUser) -> None:
    while (await caller.get("/health")).status != 200:
        await asyncio.sleep(0.05)
    assert (await caller.query(caller.marker)).status == 200


async def _wait_until_all_closed(server: Server) -> None:
    """Wait until all charges are closed: holds of refused calls have been released."""
    while any(charge.closed_ms is None for charge in await charges_in(server.database_url)):
        await asyncio.sleep(0.1)
