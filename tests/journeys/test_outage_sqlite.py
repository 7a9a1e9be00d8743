"""SQLite does not take the ledger's writes: another process keeps the file, or there is no room for it (P10)."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import psutil
import pytest

from journeys.support.ledger_checks import assert_books_are_right
from journeys.support.server import Server
from journeys.support.users import Person, Reply, person
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

ROOM = 64
USAGE = {"prompt_tokens": 15, "completion_tokens": 9}


@pytest.fixture
def server(make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream) -> Iterator[Server]:
    made = make_server(sqlite_url, OPENAI_BASE_URL=upstream.base_url).start()
    yield made
    made.stop()


@contextmanager
def _kept(server: Server) -> Iterator[None]:
    """The write lock, held by this process."""
    with closing(sqlite3.connect(server.database_url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def _full(server: Server) -> Iterator[None]:
    """No file of the server's has room beyond a few bytes: a log of SQLite's that begins anew does not fit either."""
    process = psutil.Process(server.program.pid)
    _, most = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (ROOM, most))
    yield
    process.rlimit(psutil.RLIMIT_FSIZE, (most, most))


Outage = Callable[[Server], AbstractContextManager[None]]
OUTAGES: dict[str, Outage] = {"kept by another process": _kept, "full": _full}


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES.keys())
async def test_while_nothing_can_be_written_no_call_is_admitted(
    server: Server, upstream: Upstream, outage: Outage
) -> None:
    async with person(server) as caller:
        with outage(server):
            refused = await asyncio.gather(*(caller.ask(caller.marker) for _ in range(5)))
            assert (await caller.get("/health")).status == 503
            assert (await caller.get("/health/ready")).status == 503
            assert (await caller.get("/health/live")).status == 200
        assert {(reply.status, reply.code) for reply in refused} == {(503, "ledger_unavailable")}
        assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
        assert upstream.seen(caller.marker) == []
        await _serves_again(caller)
        assert len(await caller.charges()) == len(upstream.seen(caller.marker)) == 1
    await assert_books_are_right(server.database_url)


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES.keys())
async def test_an_answer_comes_though_its_settle_cannot_land_yet(
    server: Server, upstream: Upstream, outage: Outage
) -> None:
    async with person(server) as caller:
        prompt = scripted(caller.marker, gate=caller.marker, usage=USAGE)
        call = asyncio.create_task(caller.ask(prompt))
        async with asyncio.timeout(PATIENCE_S):
            while not upstream.waiting(caller.marker):
                await asyncio.sleep(0.02)
        with outage(server):
            upstream.open(caller.marker)
            reply = await call
            assert (reply.status, reply.body["cost"]) == (200, 24)
            assert reply.headers["X-Charge-ID"] == reply.body["query_id"]
        charge = await _settled(caller, reply)
        assert (charge["basis"], charge["cost"]) == ("provider", 24)
        assert (await caller.quota())["used"] == 24
    await assert_books_are_right(server.database_url)


async def _serves_again(caller: Person) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await caller.get("/health")).status != 200:
            await asyncio.sleep(0.05)
    assert (await caller.ask(caller.marker)).status == 200


async def _settled(caller: Person, reply: Reply) -> dict[str, object]:
    async with asyncio.timeout(PATIENCE_S):
        while (charge := (await caller.get(f"/me/charges/{reply.body['query_id']}")).body)["state"] != "settled":
            await asyncio.sleep(0.05)
    found: dict[str, object] = charge
    return found
