"""The ledger cannot write to SQLite: another process holds the write lock, or the disk is full (P10)."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import psutil
import pytest

from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

MAX_FILE_BYTES = 64
USAGE = {"prompt_tokens": 15, "completion_tokens": 9}


@pytest.fixture
def server(make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream) -> Iterator[Server]:
    made = make_server(sqlite_url, OPENAI_BASE_URL=upstream.base_url).start()
    yield made
    made.stop()


@contextmanager
def _locked(server: Server) -> Iterator[None]:
    """This process holds the write lock."""
    with closing(sqlite3.connect(server.database_url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def _full(server: Server) -> Iterator[None]:
    """The server cannot write a file beyond MAX_FILE_BYTES, which is too little even for a new SQLite log."""
    process = psutil.Process(server.program.pid)
    _, hard_limit = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (MAX_FILE_BYTES, hard_limit))
    yield
    process.rlimit(psutil.RLIMIT_FSIZE, (hard_limit, hard_limit))


Outage = Callable[[Server], AbstractContextManager[None]]
OUTAGES: dict[str, Outage] = {"locked by another process": _locked, "full": _full}


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES.keys())
async def test_while_the_database_cannot_be_written_no_call_is_admitted(
    server: Server, upstream: Upstream, outage: Outage
) -> None:
    async with new_user(server) as caller:
        with outage(server):
            refused = await asyncio.gather(*(caller.query(caller.marker) for _ in range(5)))
            reply = await caller.get("/health")
            assert (reply.status, reply.body["status"]) == (503, "unhealthy")
            assert (await caller.get("/health/ready")).status == 503
            assert (await caller.get("/health/live")).status == 200
        assert {(reply.status, reply.code) for reply in refused} == {(503, "ledger_unavailable")}
        assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
        assert upstream.requests(caller.marker) == []
        await _wait_until_it_serves(caller)
        assert len(await caller.charges()) == len(upstream.requests(caller.marker)) == 1
    await assert_ledger_is_consistent(server.database_url)


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES.keys())
async def test_an_answer_is_returned_although_its_settle_must_wait(
    server: Server, upstream: Upstream, outage: Outage
) -> None:
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, gate=caller.marker, usage=USAGE)
        call = asyncio.create_task(caller.query(prompt))
        async with asyncio.timeout(TEST_DEADLINE_S):
            while not upstream.waiting(caller.marker):
                await asyncio.sleep(0.02)
        with outage(server):
            upstream.open(caller.marker)
            reply = await call
            assert (reply.status, reply.body["cost"]) == (200, 24)
            assert reply.headers["X-Charge-ID"] == reply.body["query_id"]
        charge = await _wait_until_settled(caller, reply)
        assert (charge["basis"], charge["cost"]) == ("provider", 24)
        assert (await caller.quota())["used"] == 24
    await assert_ledger_is_consistent(server.database_url)


async def _wait_until_it_serves(caller: ApiUser) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while (await caller.get("/health")).status != 200:
            await asyncio.sleep(0.05)
    assert (await caller.query(caller.marker)).status == 200


async def _wait_until_settled(caller: ApiUser, reply: Reply) -> dict[str, object]:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while (charge := (await caller.get(f"/me/charges/{reply.body['query_id']}")).body)["state"] != "settled":
            await asyncio.sleep(0.05)
    found: dict[str, object] = charge
    return found
