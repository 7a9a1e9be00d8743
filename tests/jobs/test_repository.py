"""The rows of jobs: whose turn it is, who may claim one, and what is deleted when."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from support.factories import make_principal
from tollkeeper.database.engine import Database
from tollkeeper.jobs import repository
from tollkeeper.jobs.models import Job
from tollkeeper.jobs.repository import CLAIM_MS
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.jobs import JobStatus

NOW_MS = 1_000_000
HOUR_MS = 3_600_000


@dataclass
class Rows:
    """Rows that a test makes."""

    database: Database
    owners: list[Principal] = field(default_factory=list)

    async def add(self, owner: int, name: str, **fields: object) -> Job:
        values = {
            "id": f"job_{name}",
            "kind": "/ai/query",
            "status": "pending",
            "priority": 0,
            "token_version": 0,
            "correlation_id": "",
            "traceparent": "",
            "request": b"sealed",
            "created_ms": NOW_MS,
            "available_ms": NOW_MS,
            "deadline_ms": NOW_MS + HOUR_MS,
        }
        who = self.owners[owner]
        job = Job(tenant_id=who.tenant_id, user_id=who.user_id, **(values | fields))  # type: ignore[arg-type]
        async with self.database.session() as session:
            session.add(job)
        return job

    async def claim(self, after_tenant: int = 0, now_ms: int = NOW_MS) -> tuple[int, str] | None:
        """The number of the tenant, and the name."""
        async with self.database.session() as session:
            claimed = await repository.claim(session, after_tenant, now_ms)
        if claimed is None:
            return None
        [number] = [number for number, one in enumerate(self.owners) if one.tenant_id == claimed.job.tenant_id]
        return number, claimed.job.id.removeprefix("job_")


@pytest.fixture
async def rows(database_url: str) -> AsyncIterator[Rows]:
    """Of two tenants."""
    database = Database(database_url)
    made = Rows(database)
    made.owners = sorted([await make_principal(database) for _ in range(2)], key=lambda one: one.tenant_id)
    yield made
    await database.close()


async def test_tenants_take_turns_and_within_one_the_priority_and_the_age_decide(rows: Rows) -> None:
    for name, priority in (("1", 0), ("2", 5), ("3", 5), ("4", 0)):
        await rows.add(0, name, priority=priority)
    await rows.add(1, "5")
    order, last = [], 0
    while (claimed := await rows.claim(last)) is not None:
        order.append(claimed)
        last = rows.owners[claimed[0]].tenant_id
    assert order == [(0, "2"), (1, "5"), (0, "3"), (0, "1"), (0, "4")]


async def test_a_claim_lapses_and_only_what_is_due_is_claimed(rows: Rows) -> None:
    await rows.add(0, "1")
    await rows.add(0, "later", available_ms=NOW_MS + HOUR_MS)
    await rows.add(0, "over", deadline_ms=NOW_MS)
    for status in ("new", "processing"):
        await rows.add(0, status, status=status)
    assert await rows.claim() == (0, "1")
    assert await rows.claim() is None
    assert await rows.claim(now_ms=NOW_MS + CLAIM_MS) == (0, "1")


async def test_two_sessions_never_claim_one_job(rows: Rows) -> None:
    for number in range(6):
        await rows.add(number % 2, str(number))
    claimed = await asyncio.gather(*(rows.claim() for _ in range(12)))
    names = [one[1] for one in claimed if one is not None]
    assert len(names) == len({*names}) > 0


async def test_a_job_ends_once(rows: Rows) -> None:
    job = await rows.add(0, "1")
    async with rows.database.session() as session:
        assert await repository.end(session, job, JobStatus.CANCELLED, NOW_MS, None, among=("pending",))
        assert not await repository.end(session, job, JobStatus.FAILED, NOW_MS, b"x", among=("pending", "processing"))
    async with rows.database.session() as session:
        found = await repository.find(session, rows.owners[0], job.id)
        assert found is not None
        assert (found.status, found.outcome, found.completed_ms) == ("cancelled", None, NOW_MS)


async def test_old_rows_are_deleted_and_open_ones_counted(rows: Rows) -> None:
    await rows.add(0, "pending", created_ms=NOW_MS - HOUR_MS)
    await rows.add(1, "running", status="processing")
    await rows.add(0, "never submitted", status="new", created_ms=NOW_MS - HOUR_MS)
    await rows.add(0, "just now", status="new")
    for name, completed_ms in (("old", NOW_MS - HOUR_MS), ("fresh", NOW_MS)):
        await rows.add(0, name, status="completed", completed_ms=completed_ms)
    async with rows.database.session() as session:
        before_ms = NOW_MS - HOUR_MS // 2
        deleted = await repository.delete_old(session, new_before_ms=before_ms, ended_before_ms=before_ms, limit=10)
        assert deleted == 2
        counts, oldest_ms = await repository.count_open(session)
        assert (counts, oldest_ms) == ({"pending": 1, "processing": 1}, NOW_MS - HOUR_MS)
        page = await repository.list_page(session, rows.owners[0], status=None, before=None, limit=10)
        assert sorted(job.id for job in page) == ["job_fresh", "job_pending"]
