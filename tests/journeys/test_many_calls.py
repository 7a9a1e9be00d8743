"""Many calls at once: exactly as many as the quota holds are made, and nothing waits for a connection of some pool."""

import asyncio
from collections import Counter

import pytest

from journeys.support.server import Server
from journeys.support.users import Person, Reply, person, set_limit, visitor
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

pytestmark = pytest.mark.stock_postgres

CALLERS, PLACES = 200, 10
MAX_TOKENS = 50


async def test_of_200_callers_exactly_as_many_as_the_quota_holds_are_answered(
    server: Server, upstream: Upstream
) -> None:
    """The upstream answers only after the last refusal, so nobody can get in on room that was given back."""
    async with person(server) as prober, person(server, limit=0) as caller:
        hold, cost = await _hold_and_cost(prober, upstream)
        await set_limit(server, caller.principal, PLACES * hold)

        calls = [asyncio.create_task(_gated(caller)) for _ in range(CALLERS)]
        with upstream.gate(caller.marker):
            async with asyncio.timeout(PATIENCE_S):
                refused = await _first(calls, CALLERS - PLACES)
            quota = await caller.quota()
            assert (quota["used"], quota["reserved"]) == (0, PLACES * hold)
        replies = await asyncio.gather(*calls)

        assert Counter(reply.status for reply in replies) == {200: PLACES, 429: CALLERS - PLACES}
        assert {reply.code for reply in refused} == {"quota_held"}
        assert {reply.headers["Retry-After"] for reply in refused} == {"1"}
        assert {(reply.body["used"], reply.body["reserved"]) for reply in refused} == {(0, PLACES * hold)}
        assert len(upstream.seen(caller.marker)) == PLACES
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (PLACES * cost, 0)
        assert len(await caller.charges()) == PLACES
    assert "Clean:" in await asyncio.to_thread(server.command, "ledger", "verify")


async def test_200_calls_in_flight_are_all_answered_and_so_is_health(server: Server, upstream: Upstream) -> None:
    """Nothing that a call holds while the provider speaks comes from a pool of connections."""
    async with person(server) as caller, visitor(server) as onlooker:
        calls = [asyncio.create_task(_gated(caller)) for _ in range(CALLERS)]
        with upstream.gate(caller.marker):
            async with asyncio.timeout(PATIENCE_S):
                while upstream.waiting(caller.marker) < CALLERS:
                    await asyncio.sleep(0.05)
            async with onlooker.get("/health") as response:
                assert response.status == 200
                assert (await response.json())["calls_in_flight"] == CALLERS
            assert (await caller.quota())["reserved"] > CALLERS * MAX_TOKENS
        replies = await asyncio.gather(*calls)
        assert {reply.status for reply in replies} == {200}
        quota = await caller.quota()
        assert (quota["used"], quota["reserved"]) == (sum(reply.body["cost"] for reply in replies), 0)


async def _gated(caller: Person) -> Reply:
    """A call that the upstream answers when the gate with the caller's marker is opened."""
    return await caller.ask(scripted(caller.marker, gate=caller.marker), max_tokens=MAX_TOKENS)


async def _hold_and_cost(prober: Person, upstream: Upstream) -> tuple[int, int]:
    """What one such call holds, and what it costs."""
    upstream.open(prober.marker)
    reply = await _gated(prober)
    charge = (await prober.get(f"/me/charges/{reply.body['query_id']}")).body
    return charge["held"], reply.body["cost"]


async def _first(calls: list[asyncio.Task[Reply]], number: int) -> list[Reply]:
    """The replies of those that come back first."""
    while len(back := [call for call in calls if call.done()]) < number:
        await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
    return [call.result() for call in back]
