"""The process that runs batches is killed: each line is made once or not at all, and what was served is booked (P5)."""

import asyncio
import random
from collections.abc import Callable

import pytest

from journeys.support import batches
from journeys.support.batches import chat_line
from journeys.support.booked import assert_all_is_booked
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from support.depth import DEPTH

LEASES = {"TOLLKEEPER_LEASE_SECONDS": "1", "TOLLKEEPER_SWEEP_SECONDS": "0.2"}
LINES = 400
INTERRUPTED = "job_interrupted"


@pytest.mark.proof
@pytest.mark.prove_only_on_postgres
async def test_a_server_killed_at_random_instants_makes_each_line_at_most_once(
    make_server: Callable[..., Server], database_url: str, own_upstream: Upstream
) -> None:
    rng = random.Random(20261130)
    server = make_server(database_url, OPENAI_BASE_URL=own_upstream.base_url, **LEASES).start()
    async with new_user(server, limit=100_000_000) as caller:
        for kill in range(DEPTH.kills):
            if kill % 3 == 0:
                first_limit = 100 + kill // 3 * LINES
                # No two lines have the same output limit, by which the upstream's requests are told apart.
                lines = [
                    chat_line(
                        f"line-{n}", scripted(caller.marker, delay=rng.uniform(0, 0.02)), max_tokens=first_limit + n
                    )
                    for n in range(LINES)
                ]
                batch_id = str((await batches.created(caller, await batches.uploaded(caller, lines)))["id"])
            seen = len(own_upstream.requests(caller.marker))
            await _wait_for_requests(own_upstream, caller.marker, seen + rng.randrange(40))
            await asyncio.sleep(rng.uniform(0, 0.2))
            server.program.kill()
            server.start()
            if kill % 3 == 2 or kill == DEPTH.kills - 1:
                await _assert_ended(server, caller, own_upstream, batch_id)
    server.stop()


async def _wait_for_requests(upstream: Upstream, marker: str, count: int) -> None:
    """Until the upstream has so many; or no further ones for a while, because the batch has ended."""
    for _ in range(100):
        if len(upstream.requests(marker)) >= count:
            return
        await asyncio.sleep(0.05)


async def _assert_ended(server: Server, caller: ApiUser, upstream: Upstream, batch_id: str) -> None:
    """Each line has one result: an answer that is charged as reported, or that its call was interrupted."""
    async with asyncio.timeout(2 * TEST_DEADLINE_S):
        batch = await batches.ended(caller, batch_id)
    found = await batches.results(caller, batch)
    await assert_all_is_booked(server, upstream)
    assert found.keys() == {f"line-{n}" for n in range(LINES)}
    answered = [one for one in found.values() if one["response"]["status_code"] == 200]
    lost = [one["response"]["body"]["error"]["code"] for one in found.values() if one not in answered]
    assert set(lost) <= {INTERRUPTED}
    assert len(answered) > LINES // 2
    assert len({one["response"]["request_id"] for one in answered}) == len(answered)
    assert batch["request_counts"] == {"total": LINES, "completed": len(answered), "failed": len(lost)}
    assert (await caller.quota())["reserved"] == 0
    assert "open holds: 0\n" in server.command("ledger", "verify")
