"""Many concurrent calls: exactly as many as fit the quota are made, and none waits for a connection of a pool."""

import asyncio
from collections import Counter

import pytest

from journeys.support.admins import new_admin
from journeys.support.server import Server
from journeys.support.users import ApiUser, Reply, new_user, set_limit
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.principal import Role

pytestmark = pytest.mark.stock_postgres

CALLERS, FITTING = 200, 10
MAX_TOKENS = 50


async def test_of_200_calls_exactly_as_many_as_fit_the_quota_are_answered(server: Server, upstream: Upstream) -> None:
    """The upstream answers only after the last refusal, so that no call can use a hold that was released."""
    async with new_user(server) as prober, new_user(server, limit=0) as caller:
        hold, cost = await _hold_and_cost(prober, upstream)
        await set_limit(server, caller.principal, FITTING * hold)

        calls = [asyncio.create_task(_gated(caller)) for _ in range(CALLERS)]
        with upstream.gate(caller.marker):
            async with asyncio.timeout(TEST_DEADLINE_S):
                refused = await _first_replies(calls, CALLERS - FITTING)
            quota = await caller.quota()
            assert (quota["used"], quota["reserved"]) == (0, FITTING * hold)
        replies = await asyncio.gather(*calls)

        assert Counter(reply.status for reply in replies) == {200: FITTING, 429: CALLERS - FITTING}
        assert {reply.code for reply in refused} == {"quota_held"}
        assert {reply.headers["Retry-After"] for reply in refused} == {"1"}
        assert {(reply.body["used"], reply.body["reserved"]) for reply in refused} == {(0, FITTING * hold)}
        assert len(upstream.requests(caller.marker)) == FITTING
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (FITTING * cost, 0)
        assert len(await caller.charges()) == FITTING
    assert "Clean:" in await asyncio.to_thread(server.command, "ledger", "verify")


async def test_200_calls_in_flight_are_all_answered_and_so_is_health(server: Server, upstream: Upstream) -> None:
    """A call holds no pooled connection while the provider answers."""
    async with new_user(server) as caller, new_admin(server, Role.OPERATOR) as operator:
        calls = [asyncio.create_task(_gated(caller)) for _ in range(CALLERS)]
        with upstream.gate(caller.marker):
            async with asyncio.timeout(TEST_DEADLINE_S):
                while upstream.waiting(caller.marker) < CALLERS:
                    await asyncio.sleep(0.05)
            health = await operator.get("/health")
            assert (health.status, health.body["calls_in_flight"]) == (200, CALLERS)
            assert (await caller.quota())["reserved"] > CALLERS * MAX_TOKENS
        replies = await asyncio.gather(*calls)
        assert {reply.status for reply in replies} == {200}
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (sum(reply.body["cost"] for reply in replies), 0)


async def _gated(caller: ApiUser) -> Reply:
    """A call that the upstream answers when the gate named by the caller's marker is opened."""
    return await caller.query(scripted(caller.marker, gate=caller.marker), max_tokens=MAX_TOKENS)


async def _hold_and_cost(prober: ApiUser, upstream: Upstream) -> tuple[int, int]:
    """The hold and the cost of one such call."""
    upstream.open(prober.marker)
    reply = await _gated(prober)
    charge = (await prober.get(f"/me/charges/{reply.body['query_id']}")).body
    return charge["held"], reply.body["cost"]


async def _first_replies(calls: list[asyncio.Task[Reply]], number: int) -> list[Reply]:
    """The replies of the first `number` calls that end."""
    while len(done := [call for call in calls if call.done()]) < number:
        await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
    return [call.result() for call in done]
