"""The process that runs jobs is killed: each job is made once or not at all, and what was served is booked (P5)."""

import asyncio
import random
from collections.abc import Callable, Iterator

import aiohttp
import pytest
from sqlmodel import select

from journeys.support.booked import assert_all_is_booked
from journeys.support.failpoints import JOB_POINTS
from journeys.support.jobs import Job, ended, read, submit
from journeys.support.server import SERVE, Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S
from support.depth import DEPTH
from tollkeeper.database.engine import Database
from tollkeeper.webhooks.events import EventType, joined
from tollkeeper.webhooks.models import Webhook, WebhookDelivery

pytestmark = pytest.mark.stock_postgres

LEASES = {"TOLLKEEPER_LEASE_SECONDS": "1", "TOLLKEEPER_SWEEP_SECONDS": "0.2"}
SUBMITTERS = 4
SIGKILLED = -9
AMPLE = 100_000_000


@pytest.fixture
def crashing(make_server: Callable[..., Server], database_url: str, own_upstream: Upstream) -> Server:
    """A server with short leases, not started."""
    return make_server(database_url, OPENAI_BASE_URL=own_upstream.base_url, TOLLKEEPER_RATE_LIMIT_AI="off", **LEASES)


@pytest.mark.exhaustive
@pytest.mark.prove_only_on_postgres
async def test_a_server_killed_at_each_failpoint_of_a_job_makes_each_job_at_most_once(
    crashing: Server, own_upstream: Upstream
) -> None:
    """Each process takes over the jobs of the one before it, and dies at the next failpoint."""
    limits, accepted = iter(range(100, 100_000)), list[str]()
    crashing.start(_dying_at(JOB_POINTS[0]))
    async with new_user(crashing, limit=AMPLE) as caller:
        for point, after in zip(JOB_POINTS, [*map(_dying_at, JOB_POINTS[1:]), SERVE], strict=True):
            await _submit_until_it_dies(caller, limits, accepted)
            assert crashing.program.wait_for_end() == SIGKILLED, point
            crashing.start(after)
        await _assert_all_ended(caller, accepted, crashing, own_upstream)
    crashing.stop()


@pytest.mark.proof
@pytest.mark.prove_only_on_postgres
async def test_a_server_killed_at_random_instants_makes_each_job_at_most_once(
    crashing: Server, own_upstream: Upstream
) -> None:
    rng = random.Random(20261130)
    limits, accepted = iter(range(100, 100_000)), list[str]()
    crashing.start()
    async with new_user(crashing, limit=AMPLE) as caller:
        await _add_webhook(crashing, caller)
        for _ in range(DEPTH.kills):
            submitters = asyncio.create_task(_submit_until_it_dies(caller, limits, accepted))
            await _wait_for(accepted, len(accepted) + rng.randrange(30))
            await asyncio.sleep(rng.uniform(0, 0.1))
            crashing.program.kill()
            await submitters
            crashing.start()
        await _assert_all_ended(caller, accepted, crashing, own_upstream)
        await _assert_each_end_is_in_the_outbox(crashing, caller, accepted)
    crashing.stop()


async def _add_webhook(server: Server, caller: ApiUser) -> None:
    """A webhook whose URL cannot be read, so that its deliveries stay."""
    webhook = Webhook(
        tenant_id=caller.principal.tenant_id,
        id="wh_1",
        sealed_url=b"",
        description="",
        events=joined([EventType.JOB_COMPLETED, EventType.JOB_FAILED]),
        sealed_secret=b"",
        created_ms=1,
    )
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            session.add(webhook)
    finally:
        await database.close()


async def _assert_each_end_is_in_the_outbox(server: Server, caller: ApiUser, accepted: list[str]) -> None:
    """Each job that has ended has one event of that end, whenever the server was killed."""
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            found = (await session.exec(select(WebhookDelivery.event_id, WebhookDelivery.event_type))).all()
    finally:
        await database.close()
    ends = {job_id: (await read(caller, job_id))["status"] for job_id in accepted}
    events = {event_id.replace("evt_", "job_"): event_type.removeprefix("job.") for event_id, event_type in found}
    assert len(events) == len(found)
    assert {job_id: events.get(job_id) for job_id in ends} == ends


async def _wait_for(accepted: list[str], count: int) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while len(accepted) < count:
            await asyncio.sleep(0.01)


def _dying_at(point: str) -> tuple[str, ...]:
    """The launcher of a server that kills itself when it reaches a failpoint for the third time."""
    return "journeys.support.failpoints", point, "3"


async def _submit_until_it_dies(caller: ApiUser, limits: Iterator[int], accepted: list[str]) -> None:
    """Submit jobs until the connection breaks. No two have the same output limit; each has a key of its own."""

    async def submit_repeatedly(rng: random.Random) -> None:
        while True:
            prompt = scripted(caller.marker, delay=rng.uniform(0, 0.02))
            limit = next(limits)
            try:
                reply = await submit(caller, prompt, key=f"key-{limit}", max_tokens=limit)
            except (aiohttp.ClientError, ConnectionError):
                return
            await asyncio.sleep(0.02)
            if (reply.status, reply.body.get("code")) == (503, "ledger_unavailable"):
                continue  # on a busy machine the commit took longer than a reserve waits
            assert reply.status == 202, reply.body
            accepted.append(reply.body["job_id"])

    async with asyncio.timeout(TEST_DEADLINE_S):
        await asyncio.gather(*(submit_repeatedly(random.Random(n)) for n in range(SUBMITTERS)))


async def _assert_all_ended(caller: ApiUser, accepted: list[str], server: Server, upstream: Upstream) -> None:
    """Each accepted job has ended: with a result, charged as reported; or interrupted, charged by the rule for calls
    that are lost. Nothing is held any more.
    """
    results = [await ended(caller, job_id) for job_id in accepted]
    await assert_all_is_booked(server, upstream)
    completed = [job for job in results if job["status"] == "completed"]
    assert {_code(job) for job in results if job["status"] == "failed"} <= {"job_interrupted"}
    assert len(completed) + sum(job["status"] == "failed" for job in results) == len(accepted)
    assert len(completed) > len(accepted) // 2
    costs = {job["result"]["query_id"]: job["result"]["cost"] for job in completed}
    assert len(costs) == len(completed)
    charges = {charge["id"]: charge for charge in await _charges(caller)}
    assert all((charges[id_]["cost"], charges[id_]["basis"]) == (cost, "provider") for id_, cost in costs.items())
    assert (await caller.quota())["reserved"] == 0
    assert "open holds: 0\n" in server.command("ledger", "verify")


def _code(job: Job) -> str:
    return str(job["error"]["code"])


async def _charges(caller: ApiUser) -> list[dict[str, object]]:
    found, cursor = [], ""
    while True:
        page = (await caller.get(f"/me/charges?limit=100{cursor}")).body
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"
