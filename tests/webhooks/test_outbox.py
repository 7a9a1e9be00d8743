"""What is in the outbox: the events that webhooks take, once, with the transaction that they report."""

import json

import pytest

from support.factories import make_principal
from tollkeeper.jobs import repository
from tollkeeper.jobs.models import Job
from tollkeeper.quota.rules.jobs import JobStatus
from tollkeeper.webhooks.events import EventType, put_event
from webhooks.conftest import Outbox

URL = "https://hooks.example.com"
FINAL = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


async def make_job(outbox: Outbox, tenant_id: int, number: int) -> Job:
    owner = await make_principal(outbox.database, tenant_id)
    job = Job(
        tenant_id=tenant_id,
        id=f"job_{number:032x}",
        user_id=owner.user_id,
        kind="/ai/query",
        status="processing",
        priority=0,
        token_version=0,
        correlation_id="",
        traceparent="",
        request=b"",
        created_ms=1,
        available_ms=1,
        deadline_ms=1,
    )
    async with outbox.database.session() as session:
        session.add(job)
    return job


async def end(outbox: Outbox, job: Job, status: JobStatus) -> None:
    async with outbox.database.session() as session:
        await repository.end(session, job, status, outbox.clock.ms, None, among=("processing",))


async def test_each_end_of_a_job_is_put_in_the_outbox_of_the_webhooks_that_take_it(outbox: Outbox) -> None:
    tenant_id, other = await outbox.tenant(), await outbox.tenant()
    types = {status: EventType(f"job.{status}") for status in FINAL}
    all_of_them = await outbox.webhook(tenant_id, URL, *types.values(), EventType.BATCH_FAILED)
    only_failed = await outbox.webhook(tenant_id, URL, EventType.JOB_FAILED)
    await outbox.webhook(tenant_id, URL, EventType.BATCH_COMPLETED)
    await outbox.webhook(tenant_id, URL, *types.values(), disabled_ms=1)
    await outbox.webhook(tenant_id, URL, *types.values(), deleted_ms=1)
    await outbox.webhook(other, URL, *types.values())
    jobs = {status: await make_job(outbox, tenant_id, number) for number, status in enumerate(FINAL)}
    for status, job in jobs.items():
        await end(outbox, job, status)
        await end(outbox, job, JobStatus.CANCELLED)  # a job ends once
    found = await outbox.deliveries()
    wanted = {(all_of_them.id, status) for status in FINAL} | {(only_failed.id, JobStatus.FAILED)}
    assert {(one.webhook_id, JobStatus(one.event_type.removeprefix("job."))) for one in found} == wanted
    assert len(found) == len(wanted)
    for one in found:
        job = jobs[JobStatus(one.event_type.removeprefix("job."))]
        ended = one.event_type.removeprefix("job.")
        assert json.loads(one.data) == {"job_id": job.id, "user_id": job.user_id, "status": ended}
        assert (one.event_id, one.user_id) == (job.id.replace("job_", "evt_"), job.user_id)
        assert (one.status, one.attempts, one.tries, one.completed_ms) == ("pending", 0, 0, None)
        assert one.created_ms == one.since_ms == one.available_ms == outbox.clock.ms


async def _put_and_fail(outbox: Outbox, tenant_id: int) -> None:
    async with outbox.database.session() as session:
        await put_event(session, tenant_id, EventType.BATCH_COMPLETED, {}, outbox.clock.ms)
        raise RuntimeError


async def test_an_event_is_put_with_its_transaction_once(outbox: Outbox) -> None:
    tenant_id = await outbox.tenant()
    await outbox.webhook(tenant_id, URL, EventType.BATCH_COMPLETED)
    for _ in range(2):
        await outbox.put(tenant_id, EventType.BATCH_COMPLETED, 1, user_id=7)
    await outbox.put(tenant_id, EventType.BATCH_FAILED, 2)
    with pytest.raises(RuntimeError):
        await _put_and_fail(outbox, tenant_id)
    [one] = await outbox.deliveries()
    assert (one.event_type, one.user_id, json.loads(one.data)) == ("batch.completed", 7, {"n": 1})
    await outbox.put(tenant_id, EventType.BATCH_COMPLETED)
    assert len(await outbox.deliveries()) == 2
