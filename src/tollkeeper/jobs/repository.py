"""Reads and writes the rows of jobs. The ledger makes a job pending, processing and completed; the rest is here."""

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Delete, Update, func
from sqlalchemy.orm import defer
from sqlmodel import and_, col, delete, exists, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.identity.models import ApiKey, User
from tollkeeper.jobs.models import Job
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.jobs import JobStatus
from tollkeeper.quota.rules.models import Charge
from tollkeeper.quota.time_sorted_ids import linked_id, month_of

CLAIM_MS = 10_000
"""How long a claimed job is left to its claimant, who starts it at once. It is the pause after a claimant has died."""

WITHOUT_CONTENTS = (
    defer(Job.request, raiseload=True),  # type: ignore[arg-type]
    defer(Job.outcome, raiseload=True),  # type: ignore[arg-type]
)
PENDING, PROCESSING = JobStatus.PENDING.value, JobStatus.PROCESSING.value


class ClaimedJob(NamedTuple):
    """A job that was claimed, with its charge, its user, and the API key that it was submitted with, if any."""

    job: Job
    charge: Charge | None
    user: User | None
    api_key: ApiKey | None


async def find(session: AsyncSession, owner: Principal, job_id: str) -> Job | None:
    """The user's job of this id. A `new` one has not been submitted yet."""
    query = select(Job).where(_is_owned(owner), Job.id == job_id, Job.status != JobStatus.NEW.value)
    return (await session.exec(query)).first()


async def find_by_key(session: AsyncSession, owner: Principal, key: str) -> Job | None:
    """The user's job that was submitted with this idempotency key; perhaps a `new` one."""
    return (await session.exec(select(Job).where(_is_owned(owner), Job.idempotency_key == key))).first()


async def list_page(
    session: AsyncSession, owner: Principal, *, status: JobStatus | None, before: str | None, limit: int
) -> list[Job]:
    """At most `limit` jobs of the user, the newest first, without their contents."""
    query = select(Job).options(*WITHOUT_CONTENTS).where(_is_owned(owner), Job.status != JobStatus.NEW.value)
    if status is not None:
        query = query.where(Job.status == status.value)
    if before is not None:
        query = query.where(col(Job.id) < before)
    return list((await session.exec(query.order_by(col(Job.id).desc()).limit(limit))).all())


async def count_of(session: AsyncSession, owner: Principal, limit: int) -> int:
    """How many jobs of the user have not ended, those included that are not submitted yet; at most `limit`."""
    some = select(Job.id).where(_is_owned(owner), col(Job.completed_ms).is_(None)).limit(limit).subquery()
    return (await session.exec(select(func.count()).select_from(some))).one()


async def charge_of(session: AsyncSession, job: Job) -> Charge | None:
    """The charge of a job. A job has at least one since it is pending."""
    if job.charge_id is None:
        return None
    return await session.get(Charge, (job.charge_id, job.tenant_id, month_of(job.charge_id)))


async def linked_charge_of(session: AsyncSession, charge: Charge) -> Charge | None:
    """The second charge that was reserved together with this one, if there is one."""
    return await session.get(Charge, (linked_id(charge.id), charge.tenant_id, charge.month))


def has_due(now_ms: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether a job of any tenant can be claimed."""
    return exists().where(*_is_available(now_ms))


def _is_available(now_ms: int | ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
    return col(Job.status) == PENDING, col(Job.available_ms) <= now_ms, col(Job.deadline_ms) > now_ms


async def claim(session: AsyncSession, after_tenant: int, now_ms: int) -> ClaimedJob | None:
    """Claim the next job: that of the next tenant after this one, in a circle, which has the highest priority there.

    Returns None if there is none, or if another process was faster. A claim is no start: only the ledger's dispatch is.
    """
    available = and_(*_is_available(now_ms))
    order = col(Job.tenant_id), col(Job.priority).desc(), col(Job.id)
    for is_next in (col(Job.tenant_id) > after_tenant, col(Job.tenant_id) <= after_tenant):
        query = select(Job).where(available, is_next).order_by(*order).limit(1).with_for_update(skip_locked=True)
        job = (await session.exec(query)).first()
        if job is not None:
            is_same = _is(job), col(Job.status) == PENDING, col(Job.available_ms) == job.available_ms
            changed = await _write(session, update(Job).where(*is_same).values(available_ms=now_ms + CLAIM_MS))
            return await _with_owner(session, job) if changed else None
    return None


async def _with_owner(session: AsyncSession, job: Job) -> ClaimedJob:
    user = await session.get(User, job.user_id)
    api_key = await session.get(ApiKey, job.api_key) if job.api_key is not None else None
    return ClaimedJob(job, await charge_of(session, job), user, api_key)


async def postpone(session: AsyncSession, job: Job, until_ms: int) -> None:
    """Have a pending job started no earlier than this."""
    await _write(session, update(Job).where(_is(job), col(Job.status) == PENDING).values(available_ms=until_ms))


async def end(
    session: AsyncSession, job: Job, status: JobStatus, now_ms: int, outcome: bytes | None, *, among: Collection[str]
) -> bool:
    """End a job whose status is one of these. Returns whether it did: a job ends once."""
    changed = await _write(
        session,
        update(Job)
        .where(_is(job), col(Job.status).in_(among))
        .values(status=status.value, completed_ms=now_ms, outcome=outcome),
    )
    return bool(changed)


async def request_cancel(session: AsyncSession, job: Job, now_ms: int) -> None:
    """Have the process that runs a job cancel it."""
    await _write(session, update(Job).where(_is(job), col(Job.status) == PROCESSING).values(cancel_ms=now_ms))


async def cancelled_among(session: AsyncSession, job_ids: Collection[str]) -> list[str]:
    """Which of these running jobs were cancelled by their users."""
    query = select(Job.id).where(Job.status == PROCESSING, col(Job.id).in_(job_ids), col(Job.cancel_ms).is_not(None))
    return list((await session.exec(query)).all())


async def remove(session: AsyncSession, job: Job) -> None:
    """Delete a job with its request and its outcome."""
    await _write(session, delete(Job).where(_is(job)))


async def forget_key(session: AsyncSession, job: Job) -> None:
    """Free the idempotency key of a job."""
    await _write(session, update(Job).where(_is(job)).values(idempotency_key=None, fingerprint=None))


async def list_processing(session: AsyncSession, limit: int) -> list[Job]:
    """Jobs that some process runs, or ran, the oldest first."""
    query = (
        select(Job)
        .options(*WITHOUT_CONTENTS)
        .where(Job.status == PROCESSING)
        .order_by(col(Job.created_ms))
        .limit(limit)
    )
    return list((await session.exec(query)).all())


async def list_overdue(session: AsyncSession, now_ms: int, limit: int) -> list[Job]:
    """Pending jobs whose deadline is over, but for those of batches."""
    is_overdue = Job.status == PENDING, col(Job.deadline_ms) <= now_ms, col(Job.batch_id).is_(None)
    query = select(Job).options(*WITHOUT_CONTENTS).where(*is_overdue).limit(limit)
    return list((await session.exec(query)).all())


async def delete_old(session: AsyncSession, *, new_before_ms: int, ended_before_ms: int, limit: int) -> int:
    """Delete jobs that were stored but not submitted, and jobs that ended, before these times. Returns how many. Those
    of batches stay until their results are collected.
    """
    deleted = 0
    for is_old in (
        and_(Job.status == JobStatus.NEW.value, col(Job.completed_ms).is_(None), col(Job.created_ms) < new_before_ms),
        and_(col(Job.completed_ms) < ended_before_ms, col(Job.batch_id).is_(None)),
    ):
        some: Any = select(Job.tenant_id, Job.id).where(is_old).limit(limit)
        rows = (await session.exec(some)).all()
        for tenant_id, job_id in rows:
            await _write(session, delete(Job).where(col(Job.tenant_id) == tenant_id, col(Job.id) == job_id))
        deleted += len(rows)
    return deleted


async def count_open(session: AsyncSession) -> tuple[dict[str, int], int | None]:
    """How many jobs are pending and processing, and when the oldest pending one was submitted."""
    query = (
        select(Job.status, func.count(), func.min(Job.created_ms))
        .where(col(Job.completed_ms).is_(None), col(Job.status).in_((PENDING, PROCESSING)))
        .group_by(Job.status)
    )
    rows = {status: (count, oldest) for status, count, oldest in (await session.exec(query)).all()}
    counts = {status: rows.get(status, (0, None))[0] for status in (PENDING, PROCESSING)}
    return counts, rows.get(PENDING, (0, None))[1]


def _is(job: Job) -> ColumnElement[bool]:
    return and_(col(Job.tenant_id) == job.tenant_id, col(Job.id) == job.id)


def _is_owned(owner: Principal) -> ColumnElement[bool]:
    is_theirs = and_(col(Job.tenant_id) == owner.tenant_id, col(Job.user_id) == owner.user_id)
    return and_(is_theirs, col(Job.batch_id).is_(None))


async def _write(session: AsyncSession, statement: Update | Delete) -> int:
    """Run a statement that writes. Returns how many rows. What the session has read stays as it was read."""
    return (await session.exec(statement.execution_options(synchronize_session=False))).rowcount
