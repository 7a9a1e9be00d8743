"""PostgreSQL goes away: refused, silent, read-only, or gone between a COMMIT and its answer (P10)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qs, urlsplit

import asyncpg
import psutil
import pytest

from journeys.support.ledger_checks import assert_books_are_right, charges_in
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.tcp_proxy import Line, Streams, line
from journeys.support.users import Person, Reply, person
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

pytestmark = pytest.mark.stock_postgres

USAGE = {"prompt_tokens": 15, "completion_tokens": 9}


@pytest.fixture
async def database_line(any_postgres_url: str) -> AsyncIterator[tuple[Line, str]]:
    """A line to the database that can be cut, and the URL at this end of it."""
    port = ReservedPort()
    parts = urlsplit(any_postgres_url)

    async def connect() -> Streams:
        if folder := parse_qs(parts.query).get("host"):
            return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.5432")
        return await asyncio.open_connection(parts.hostname, parts.port or 5432)

    who = parts.netloc.rpartition("@")[0] or "postgres:"
    async with line(port.number, connect) as made:
        yield made, f"postgresql://{who}@127.0.0.1:{port.number}{parts.path}"
    port.free()


@pytest.fixture
async def server(
    make_server: Callable[..., Server], database_line: tuple[Line, str], upstream: Upstream
) -> AsyncIterator[Server]:
    made = make_server(database_line[1], OPENAI_BASE_URL=upstream.base_url)
    await asyncio.to_thread(made.start)
    yield made
    await database_line[0].restore()
    await asyncio.to_thread(made.stop)


@pytest.fixture
def cable(database_line: tuple[Line, str]) -> Line:
    return database_line[0]


async def _stall(cable: Line) -> None:
    cable.stall()


Outage = Callable[[Line], Awaitable[None]]
OUTAGES = [
    pytest.param(Line.cut, id="cut"),
    pytest.param(_stall, id="silent", marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize("outage", OUTAGES)
async def test_without_the_database_no_call_is_admitted_and_with_it_all_goes_on(
    server: Server, cable: Line, upstream: Upstream, outage: Outage
) -> None:
    async with person(server) as caller, asyncio.timeout(PATIENCE_S):
        assert (await caller.ask(caller.marker)).status == 200
        await outage(cable)
        refused = await asyncio.gather(*(caller.ask(caller.marker) for _ in range(5)))
        assert {(reply.status, reply.code) for reply in refused} == {(503, "ledger_unavailable")}
        assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
        async with asyncio.timeout(PATIENCE_S):
            assert (await caller.get("/health")).status == 503
        assert (await caller.get("/health/live")).status == 200
        async with asyncio.timeout(PATIENCE_S):
            reading = await caller.get("/me/quota")
        assert (reading.status, reading.code) == (503, "ledger_unavailable")
        assert len(upstream.seen(caller.marker)) == 1
        await cable.restore()
        await _serves_again(caller)
        assert len(upstream.seen(caller.marker)) == 2
        await _all_closed(server)
        charges = await caller.charges()
        assert sum(charge["cost"] for charge in charges) == 28
        assert (await caller.quota())["reserved"] == 0
    await assert_books_are_right(server.database_url)


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_answer_comes_though_its_settle_cannot_land_yet(
    server: Server, cable: Line, upstream: Upstream, outage: Outage
) -> None:
    async with person(server) as caller, asyncio.timeout(PATIENCE_S):
        call = await _in_flight(caller, upstream)
        await outage(cable)
        upstream.open(caller.marker)
        reply = await call
        assert (reply.status, reply.body["cost"]) == (200, 24)
        assert reply.headers["X-Charge-ID"] == reply.body["query_id"]
        await cable.restore()
        await _all_closed(server)
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["cost"]) == ("settled", "provider", 24)
        assert (await caller.quota())["used"] == 24
    await assert_books_are_right(server.database_url)


async def test_a_commit_whose_answer_is_lost_counts_once(server: Server, cable: Line, upstream: Upstream) -> None:
    """First the commit of a reserve, then the commit of a settle."""
    async with person(server) as caller, asyncio.timeout(PATIENCE_S):
        cable.break_after(b"COMMIT")
        call = await _in_flight(caller, upstream)
        assert cable.broken == 1
        cable.break_after(b"COMMIT")
        upstream.open(caller.marker)
        reply = await call
        assert cable.broken == 2
        assert (reply.status, reply.body["cost"]) == (200, 24)
        await _all_closed(server)
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["cost"]) == ("settled", "provider", 24)
        assert (await caller.quota())["used"] == 24
        assert len(upstream.seen(caller.marker)) == 1
    await assert_books_are_right(server.database_url)


async def test_a_database_that_can_only_be_read_admits_no_call(
    server: Server, cable: Line, upstream: Upstream, any_postgres_url: str
) -> None:
    async with person(server) as caller, asyncio.timeout(PATIENCE_S):
        name = urlsplit(any_postgres_url).path[1:]
        await _administer(any_postgres_url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await cable.cut()
        await cable.restore()
        reply = await caller.ask(caller.marker)
        assert (reply.status, reply.code) == (503, "ledger_unavailable")
        assert (await caller.get("/health")).status == 503
        assert (await caller.get("/me/quota")).status == 200
        assert upstream.seen(caller.marker) == []
        await _administer(any_postgres_url, f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        await cable.cut()
        await cable.restore()
        await _serves_again(caller)


async def test_a_log_that_cannot_be_written_stops_nothing(server: Server, cable: Line, upstream: Upstream) -> None:
    """The disk of the log is full when the ledger has the most to say."""
    process = psutil.Process(server.program.pid)
    _, most = process.rlimit(psutil.RLIMIT_FSIZE)
    async with person(server) as caller, asyncio.timeout(PATIENCE_S):
        process.rlimit(psutil.RLIMIT_FSIZE, (0, most))
        assert (await caller.ask(caller.marker)).status == 200
        await cable.cut()
        assert (await caller.ask(caller.marker)).status == 503
        await cable.restore()
        await _serves_again(caller)
        assert len(await caller.charges()) == len(upstream.seen(caller.marker)) == 2
        process.rlimit(psutil.RLIMIT_FSIZE, (most, most))
    await assert_books_are_right(server.database_url)


async def _administer(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(statement)
    finally:
        await connection.close()


async def _in_flight(caller: Person, upstream: Upstream) -> asyncio.Task[Reply]:
    prompt = scripted(caller.marker, gate=caller.marker, usage=USAGE)
    call = asyncio.create_task(caller.ask(prompt))
    while not upstream.waiting(caller.marker):
        await asyncio.sleep(0.02)
    return call


async def _serves_again(caller: Person) -> None:
    while (await caller.get("/health")).status != 200:
        await asyncio.sleep(0.05)
    assert (await caller.ask(caller.marker)).status == 200


async def _all_closed(server: Server) -> None:
    """Whatever was held by a call that was refused in the end has been given back."""
    while any(charge.closed_ms is None for charge in await charges_in(server.database_url)):
        await asyncio.sleep(0.1)
