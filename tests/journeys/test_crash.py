"""The server process is killed: all that the upstream has served is booked, and no hold stays open (P5)."""

import asyncio
import random
from collections.abc import Callable

import aiohttp
import pytest

from journeys.support.booked import assert_all_is_booked, closed_charges
from journeys.support.compat_requests import post
from journeys.support.endpoints import call
from journeys.support.failpoints import POINTS
from journeys.support.ledger_checks import assert_ledger_is_consistent, charges_in
from journeys.support.many_users import many_users
from journeys.support.server import SERVE, Server
from journeys.support.users import ApiUser, new_user
from journeys.support.who_pays import EMBEDDINGS_CELL, WHOLE_CELLS
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from support.depth import DEPTH

pytestmark = pytest.mark.stock_postgres

LEASES = {"TOLLKEEPER_LEASE_SECONDS": "1", "TOLLKEEPER_SWEEP_SECONDS": "0.2"}
USAGE = {"input": 11, "output": 7}
CALLERS = 8
SIGKILLED = -9
AMPLE = 100_000_000


@pytest.fixture
def crashing(make_server: Callable[..., Server], database_url: str, own_upstream: Upstream) -> Server:
    """A server with short leases, not started."""
    return make_server(
        database_url,
        OPENAI_BASE_URL=own_upstream.base_url,
        TOLLKEEPER_RATE_LIMIT_AI="off",
        **LEASES,
    )


@pytest.mark.exhaustive_on_postgres
async def test_a_server_killed_at_each_failpoint_books_all_that_was_served(
    crashing: Server, own_upstream: Upstream
) -> None:
    """Each process recovers the open charges of the one before it, and dies at the next failpoint."""
    limits = iter(range(100, 100_000))
    crashing.start(_dying_at(POINTS[0]))
    async with new_user(crashing, limit=AMPLE) as caller:
        for point, after in zip(POINTS, [*map(_dying_at, POINTS[1:]), SERVE], strict=True):
            await _call_until_it_dies(caller, limits.__next__)
            assert crashing.program.wait_for_end() == SIGKILLED, point
            crashing.start(after)
            await assert_all_is_booked(crashing, own_upstream)
        await _assert_it_serves(caller)
    assert "open holds: 0\n" in crashing.command("ledger", "verify")
    crashing.stop()


@pytest.mark.proof
@pytest.mark.exhaustive_on_postgres
async def test_a_server_killed_at_random_instants_books_all_that_was_served(
    crashing: Server, own_upstream: Upstream
) -> None:
    rng = random.Random(20261121)
    limits = iter(range(100, 100_000))
    crashing.start()
    async with new_user(crashing, limit=AMPLE, tenant_limit=AMPLE) as caller:
        for _ in range(DEPTH.kills):
            caller_loops = asyncio.create_task(_call_until_it_dies(caller, limits.__next__))
            await asyncio.sleep(rng.uniform(0.05, 0.6))
            crashing.program.kill()
            await caller_loops
            crashing.start()
            await assert_all_is_booked(crashing, own_upstream)
        await _assert_it_serves(caller)
    assert "open holds: 0\n" in crashing.command("ledger", "verify")
    crashing.stop()


@pytest.mark.exhaustive_on_postgres
@pytest.mark.exhaustive
async def test_a_server_killed_before_answers_arrive_charges_the_input_of_each_call(
    short_deadline_server: Server, own_upstream: Upstream
) -> None:
    """On every endpoint that does not stream and every provider wire, a call is lost between the upstream's log and
    the ledger: its input is charged, the rest is forgiven, and no request is sent again. Each call has its own limit.
    """
    cells = (*WHOLE_CELLS, EMBEDDINGS_CELL)
    short_deadline_server.start(**LEASES, TIMEOUT_SECONDS="60")
    async with many_users(short_deadline_server, len(cells)) as users:
        prompts = [scripted(caller.marker, usage=USAGE, gate_after_log="logged") for caller in users]
        calls = [
            asyncio.create_task(call(caller, cell.endpoint, prompt, cell.wire.model, 100 + number))
            for number, (cell, caller, prompt) in enumerate(zip(cells, users, prompts, strict=True))
        ]
        async with asyncio.timeout(TEST_DEADLINE_S):
            while await asyncio.to_thread(own_upstream.waiting, "logged") < len(cells):
                assert not any(one.done() for one in calls), [one.result() for one in calls if one.done()]
                await asyncio.sleep(0.05)
        short_deadline_server.program.kill()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, aiohttp.ClientError) for end in ends), ends
        short_deadline_server.start(**LEASES)
        charges = {charge.user_id: charge for charge in await closed_charges(short_deadline_server)}
        assert len(charges) == len(cells)
        served = {answer.limit or 0: answer for answer in own_upstream.served()}
        for cell, caller in zip(cells, users, strict=True):
            charge = charges[caller.principal.user_id]
            assert (charge.model, charge.state, charge.basis) == (cell.wire.model, "settled", "unknown"), cell
            assert (charge.error, charge.output_tokens) == ("lease_over", 0), cell
            assert 0 < charge.cost_tokens <= charge.held_tokens - charge.granted_output, cell
            assert charge.cost_tokens + charge.forgiven_tokens == charge.held_tokens, cell
            assert charge.held_tokens >= served[charge.granted_output].tokens >= 11, cell
            quota = await caller.quota()
            assert (quota["used"], quota["reserved"]) == (charge.cost_tokens, 0), cell
            assert len(own_upstream.requests(caller.marker)) == 1, cell
    await assert_ledger_is_consistent(short_deadline_server.database_url)
    assert "open holds: 0\n" in short_deadline_server.command("ledger", "verify")
    short_deadline_server.stop()


async def test_a_server_killed_after_one_renewal_charges_the_counted_input(
    crashing: Server, own_upstream: Upstream
) -> None:
    """The first renewal writes the counted input, in place of the bound by bytes, which is five times as high."""
    lease_ms, settled_ms = 3_000, 200
    crashing.start(TOLLKEEPER_LEASE_SECONDS="3")
    async with new_user(crashing, limit=AMPLE) as caller:
        prompt = scripted(caller.marker, gate=caller.marker) + " quota ledger" * 3_500
        counted = (await post(caller, "/ai/estimate", prompt=prompt, model="gpt-4o-mini")).body["input_tokens"]
        lost = asyncio.create_task(caller.query(prompt, model="gpt-4o-mini"))
        async with asyncio.timeout(TEST_DEADLINE_S):
            while not any(
                charge.lease_ms - charge.created_ms > lease_ms + settled_ms
                for charge in await charges_in(crashing.database_url)
            ):
                await asyncio.sleep(0.02)
        crashing.program.kill()
        assert isinstance((await asyncio.gather(lost, return_exceptions=True))[0], aiohttp.ClientError)
        crashing.start()
        [charge] = await closed_charges(crashing)
        assert (charge.basis, charge.error, charge.cost_tokens) == ("unknown", "lease_over", counted)
        assert charge.input_bound > 5 * counted
        assert charge.forgiven_tokens == charge.held_tokens - counted
    await assert_ledger_is_consistent(crashing.database_url)
    crashing.stop()


def _dying_at(point: str) -> tuple[str, ...]:
    """The launcher of a server that kills itself when it reaches a failpoint for the third time."""
    return "journeys.support.failpoints", point, "3"


async def _call_until_it_dies(caller: ApiUser, next_limit: Callable[[], int]) -> None:
    """Run CALLERS loops that call until the connection breaks. No two calls have the same output limit."""

    async def call_repeatedly(rng: random.Random) -> None:
        while True:
            prompt = scripted(caller.marker, delay=rng.uniform(0, 0.02))
            try:
                reply = await caller.query(prompt, max_tokens=next_limit())
            except (aiohttp.ClientError, ConnectionError):
                return
            assert reply.status == 200, reply

    async with asyncio.timeout(TEST_DEADLINE_S):
        await asyncio.gather(*(call_repeatedly(random.Random(n)) for n in range(CALLERS)))


async def _assert_it_serves(caller: ApiUser) -> None:
    reply = await caller.query(caller.marker, max_tokens=20)
    assert reply.status == 200, reply
