"""Two servers on one database: one quota, and either one finishes what the other cannot."""

import asyncio
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from journeys.support.ledger_checks import assert_books_are_right
from journeys.support.server import Server
from journeys.support.users import Person, person, set_limit
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

pytestmark = pytest.mark.stock_postgres

CALLERS, PLACES = 60, 10
LEASE_S = 1
USAGE = {"prompt_tokens": 15, "completion_tokens": 9}

Pair = tuple[Server, Server]


@pytest.fixture
def servers(make_server: Callable[..., Server], database_url: str, upstream: Upstream) -> Iterator[Pair]:
    settings = {
        "OPENAI_BASE_URL": upstream.base_url,
        "TOLLKEEPER_LEASE_SECONDS": str(LEASE_S),
        "TOLLKEEPER_SWEEP_SECONDS": "0.2",
    }
    one, two = make_server(database_url, "one", **settings), make_server(database_url, "two", **settings)
    yield one.start(), two.start()
    one.stop()
    two.stop()


async def test_one_quota_holds_for_callers_of_both_servers_however_long_they_wait(
    servers: Pair, upstream: Upstream
) -> None:
    """Calls in flight are renewed: neither server sweeps what the other is still waiting for."""
    one, two = servers
    async with person(one, limit=0) as caller, person(one) as prober:
        prompt = scripted(caller.marker, gate=caller.marker)
        upstream.open(prober.marker)
        probe = await prober.ask(scripted(prober.marker, gate=prober.marker), max_tokens=50)
        hold = (await prober.charges())[0]["held"]
        await set_limit(one, caller.principal, PLACES * hold)
        async with caller.at(two) as elsewhere, asyncio.timeout(PATIENCE_S):
            with upstream.gate(caller.marker):
                calls = [
                    asyncio.create_task(who.ask(prompt, max_tokens=50))
                    for who in (caller, elsewhere)
                    for _ in range(CALLERS // 2)
                ]
                while sum(call.done() for call in calls) < CALLERS - PLACES:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(LEASE_S * 2.5)
                assert not any(charge["closed_at"] for charge in await caller.charges())
            replies = await asyncio.gather(*calls)
        assert Counter(reply.status for reply in replies) == {200: PLACES, 429: CALLERS - PLACES}
        assert len(upstream.seen(caller.marker)) == PLACES
        assert {(charge["basis"], charge["adjusted"]) for charge in await caller.charges()} == {("provider", False)}
        assert (await caller.quota())["used"] == PLACES * probe.body["cost"]
    await assert_books_are_right(one.database_url)


async def test_a_server_that_slept_past_its_lease_brings_the_late_truth(servers: Pair, upstream: Upstream) -> None:
    """The other one ends the charge with what is known; the answer that comes after all is booked on top, once."""
    sleeper, sweeper = servers
    async with person(sleeper) as caller, caller.at(sweeper) as elsewhere, asyncio.timeout(PATIENCE_S):
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, gate=caller.marker, usage=USAGE)
            call = asyncio.create_task(caller.ask(prompt, max_tokens=50))
            while not upstream.waiting(caller.marker):
                await asyncio.sleep(0.02)
            with _asleep(sleeper):
                swept = await _closed(elsewhere)
        assert (swept["basis"], swept["adjusted"]) == ("unknown", False)
        assert swept["cost"] + swept["forgiven"] == swept["held"]
        reply = await call
        assert (reply.status, reply.body["cost"]) == (200, 24)
        (charge,) = await elsewhere.charges()
        assert (charge["state"], charge["basis"], charge["adjusted"]) == ("settled", "provider", True)
        assert (charge["cost"], charge["overrun"]) == (24, False)
        assert "adjustment" in charge["reason"]
        quota = await elsewhere.quota()
        assert (quota["used"], quota["reserved"]) == (24, 0)
    await assert_books_are_right(sweeper.database_url)


@contextmanager
def _asleep(server: Server) -> Iterator[None]:
    """The process stands still, as on a machine that was suspended."""
    os.kill(server.program.pid, signal.SIGSTOP)
    while _is_kept(server.database_url):  # it must not take the file's only lock into its sleep
        os.kill(server.program.pid, signal.SIGCONT)
        time.sleep(0.01)
        os.kill(server.program.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.program.pid, signal.SIGCONT)


def _is_kept(database_url: str) -> bool:
    """Whether somebody holds the write lock of an SQLite file."""
    if not database_url.startswith("sqlite:///"):
        return False
    path = database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        return False


async def _closed(caller: Person) -> dict[str, Any]:
    """The caller's only charge, as soon as it is closed."""
    while (charge := (await caller.charges())[0])["closed_at"] is None:
        await asyncio.sleep(0.05)
    return charge
