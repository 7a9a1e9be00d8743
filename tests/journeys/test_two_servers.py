"""Two servers on one database share the quotas, and each closes charges that the other has abandoned."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user, set_limit
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.stock_postgres

CALLERS, FITTING = 60, 10
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


async def test_one_quota_limits_the_calls_of_both_servers_however_long_they_run(
    servers: Pair, upstream: Upstream
) -> None:
    """The leases of calls in flight are renewed: neither server sweeps the calls of the other."""
    one, two = servers
    async with new_user(one, limit=0) as caller, new_user(one) as prober:
        prompt = scripted(caller.marker, gate=caller.marker)
        upstream.open(prober.marker)
        probe = await prober.query(scripted(prober.marker, gate=prober.marker), max_tokens=50)
        hold = (await prober.charges())[0]["held"]
        await set_limit(one, caller.principal, FITTING * hold)
        async with caller.on_server(two) as elsewhere, asyncio.timeout(TEST_DEADLINE_S):
            with upstream.gate(caller.marker):
                calls = [
                    asyncio.create_task(user.query(prompt, max_tokens=50))
                    for user in (caller, elsewhere)
                    for _ in range(CALLERS // 2)
                ]
                while sum(call.done() for call in calls) < CALLERS - FITTING:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(LEASE_S * 2.5)
                assert not any(charge["closed_at"] for charge in await caller.charges())
            replies = await asyncio.gather(*calls)
        assert Counter(reply.status for reply in replies) == {200: FITTING, 429: CALLERS - FITTING}
        assert len(upstream.requests(caller.marker)) == FITTING
        assert {(charge["basis"], charge["adjusted"]) for charge in await caller.charges()} == {("provider", False)}
        assert (await caller.quota())["used"] == FITTING * probe.body["cost"]
    await assert_ledger_is_consistent(one.database_url)


async def test_a_server_suspended_past_its_lease_adjusts_the_charge_afterwards(
    servers: Pair, upstream: Upstream
) -> None:
    """The other server closes the charge with an unknown outcome; the late answer is booked once, as an adjustment."""
    suspended_server, sweeping_server = servers
    async with (
        new_user(suspended_server) as caller,
        caller.on_server(sweeping_server) as elsewhere,
        asyncio.timeout(TEST_DEADLINE_S),
    ):
        with upstream.gate(caller.marker):
            prompt = scripted(caller.marker, gate=caller.marker, usage=USAGE)
            call = asyncio.create_task(caller.query(prompt, max_tokens=50))
            while not upstream.waiting(caller.marker):
                await asyncio.sleep(0.02)
            with suspended_server.suspended():
                swept = await _wait_until_closed(elsewhere)
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
    await assert_ledger_is_consistent(sweeping_server.database_url)


async def _wait_until_closed(caller: ApiUser) -> dict[str, Any]:
    """Wait until the caller's only charge is closed, and return it."""
    while (charge := (await caller.charges())[0])["closed_at"] is None:
        await asyncio.sleep(0.05)
    return charge
