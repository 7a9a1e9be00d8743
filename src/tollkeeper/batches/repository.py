"""Reads and writes the rows of batches, and of the jobs that are their lines."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Delete, Update, func
from sqlmodel import and_, col, delete, exists, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.batches.models import Batch, BatchStatus
from tollkeeper.files.models import StoredFile
from tollkeeper.jobs.models import Job
from tollkeeper.jobs.repository import PENDING
from tollkeeper.principal import Principal

CLAIM_MS = 10_000
"""How long a claimed batch is left to its claimant. It is the pause after a claimant has died."""
CANCELLABLE = (BatchStatus.VALIDATING.value, BatchStatus.IN_PROGRESS.value)


async def find(session: AsyncSession, owner: Principal, batch_id: str) -> Batch | None:
    """The user's batch of this id."""
    return (await session.exec(select(Batch).where(_is_owned(owner), Batch.id == batch_id))).first()


async def find_by_key(session: AsyncSession, owner: Principal, key: str) -> Batch | None:
    """The user's batch that was submitted with this idempotency key."""
    return (await session.exec(select(Batch).where(_is_owned(owner), Batch.idempotency_key == key))).first()


async def forget_key(session: AsyncSession, batch: Batch) -> None:
    """Free the idempotency key of a batch."""
    await _write(session, update(Batch).where(_is(batch)).values(idempotency_key=None, fingerprint=None))


async def list_page(
    session: AsyncSession, owner: Principal, prefix: str, *, after: str | None, before: str | None, limit: int
) -> list[Batch]:
    """At most `limit` batches of the user whose ids have this prefix, the newest first: those that are older than the
    id `after`, or the next newer ones than the id `before`.
    """
    query = select(Batch).where(_is_owned(owner), col(Batch.id).startswith(prefix, autoescape=True))
    if before is not None:
        newer = query.where(col(Batch.id) > before).order_by(col(Batch.id)).limit(limit)
        return list(reversed((await session.exec(newer)).all()))
    if after is not None:
        query = query.where(col(Batch.id) < after)
    return list((await session.exec(query.order_by(col(Batch.id).desc()).limit(limit))).all())


async def count_open(session: AsyncSession, owner: Principal) -> int:
    """How many batches of the user have not ended."""
    query = select(func.count()).select_from(Batch).where(_is_owned(owner), col(Batch.ended_ms).is_(None))
    return (await session.exec(query)).one()


async def count_by_kind(session: AsyncSession) -> dict[tuple[str, str], int]:
    """How many batches of all users have not ended, by kind and status."""
    query = (
        select(Batch.kind, Batch.status, func.count())
        .where(col(Batch.ended_ms).is_(None))
        .group_by(Batch.kind, Batch.status)
    )
    return {(kind, status): count for kind, status, count in (await session.exec(query)).all()}


async def request_cancel(session: AsyncSession, batch: Batch, now_ms: int) -> None:
    """Have a batch cancelled, unless it has ended."""
    values = {"status": BatchStatus.CANCELLING.value, "cancel_ms": now_ms, "available_ms": now_ms}
    is_open = col(Batch.status).in_(CANCELLABLE)
    await _write(session, update(Batch).where(_is(batch), is_open).values(revision=Batch.revision + 1, **values))


async def remove(session: AsyncSession, batch: Batch) -> None:
    """Delete a batch that has ended."""
    await _write(session, delete(Batch).where(_is(batch), col(Batch.ended_ms).is_not(None)))


def has_due(now_ms: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether a batch of any tenant can be claimed."""
    return exists().where(*_is_due(now_ms))


def _is_due(now_ms: int | ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
    return col(Batch.ended_ms).is_(None), col(Batch.available_ms) <= now_ms


async def claim(session: AsyncSession, now_ms: int) -> Batch | None:
    """Claim the batch that has waited longest. None if there is none, or if another process was faster.

    A claim only spares work: the revision decides who changes a batch.
    """
    query = (
        select(Batch)
        .where(*_is_due(now_ms))
        .order_by(col(Batch.available_ms))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    batch = (await session.exec(query)).first()
    if batch is None:
        return None
    is_same = _is(batch), col(Batch.available_ms) == batch.available_ms
    changed = await _write(session, update(Batch).where(*is_same).values(available_ms=now_ms + CLAIM_MS))
    return batch if changed else None


async def postpone(session: AsyncSession, batch: Batch, until_ms: int) -> None:
    """Have a batch that has not changed looked at no earlier than this."""
    await _write(session, update(Batch).where(_is_at_revision(batch)).values(available_ms=until_ms))


async def lock(session: AsyncSession, batch: Batch) -> Batch | None:
    """The batch, to be changed in this transaction by this process alone. None if it has changed since it was read."""
    raised = update(Batch).where(_is_at_revision(batch)).values(revision=batch.revision + 1)
    if not await _write(session, raised):
        return None
    return await session.get(Batch, (batch.tenant_id, batch.id), populate_existing=True)


async def count_lines(session: AsyncSession, batch: Batch) -> int:
    """How many jobs of a batch there are: they wait, run, or have ended and are not collected yet."""
    return (await session.exec(select(func.count()).select_from(Job).where(_is_line_of(batch)))).one()


async def list_ended(session: AsyncSession, batch: Batch, limit: int, max_bytes: int) -> list[Job]:
    """Jobs of a batch that have ended: at most `limit`, and no more than have outcomes of `max_bytes`, but one."""
    sizes = select(Job.id, func.length(Job.outcome)).where(_is_line_of(batch), col(Job.completed_ms).is_not(None))
    ids: list[str] = []
    size = 0
    for job_id, length in (await session.exec(sizes.order_by(col(Job.id)).limit(limit))).all():
        size += length or 0
        if ids and size > max_bytes:
            break
        ids.append(job_id)
    if not ids:
        return []
    return list((await session.exec(select(Job).where(_is_line_of(batch), col(Job.id).in_(ids)))).all())


async def take_pending(session: AsyncSession, batch: Batch, limit: int) -> list[Job]:
    """Delete at most `limit` jobs of a batch that have not been started. Returns them: they will not be."""
    is_waiting = _is_line_of(batch), col(Job.status) == PENDING, col(Job.charge_id).is_(None)
    query = select(Job).where(*is_waiting).order_by(col(Job.id)).limit(limit).with_for_update(skip_locked=True)
    jobs = list((await session.exec(query)).all())
    await remove_lines(session, batch, [job.id for job in jobs])
    return jobs


async def remove_lines(session: AsyncSession, batch: Batch, job_ids: Sequence[str]) -> None:
    """Delete these jobs of a batch."""
    if job_ids:
        await _write(session, delete(Job).where(_is_line_of(batch), col(Job.id).in_(job_ids)))


async def delete_ended(session: AsyncSession, before_ms: int, limit: int) -> int:
    """Delete batches that ended before this. Returns how many."""
    query: Any = select(Batch).where(col(Batch.ended_ms) < before_ms).limit(limit)
    batches = (await session.exec(query)).all()
    for batch in batches:
        await remove(session, batch)
    return len(batches)


def is_input_of_open_batch() -> ColumnElement[bool]:
    """The condition for files that a batch which has not ended reads or writes."""
    has_file = col(StoredFile.id).in_((Batch.input_file_id, Batch.output_file_id, Batch.error_file_id))
    return exists().where(col(Batch.tenant_id) == col(StoredFile.tenant_id), has_file, col(Batch.ended_ms).is_(None))


async def is_read(session: AsyncSession, file: StoredFile) -> bool:
    """Whether a batch that has not ended reads this file."""
    is_input = Batch.tenant_id == file.tenant_id, Batch.input_file_id == file.id
    query = select(Batch.id).where(*is_input, col(Batch.ended_ms).is_(None)).limit(1)
    return (await session.exec(query)).first() is not None


def _is(batch: Batch) -> ColumnElement[bool]:
    return and_(col(Batch.tenant_id) == batch.tenant_id, col(Batch.id) == batch.id)


def _is_at_revision(batch: Batch) -> ColumnElement[bool]:
    return and_(_is(batch), col(Batch.revision) == batch.revision, col(Batch.ended_ms).is_(None))


def _is_owned(owner: Principal) -> ColumnElement[bool]:
    return and_(col(Batch.tenant_id) == owner.tenant_id, col(Batch.user_id) == owner.user_id)


def _is_line_of(batch: Batch) -> ColumnElement[bool]:
    return and_(col(Job.tenant_id) == batch.tenant_id, col(Job.batch_id) == batch.id)


async def _write(session: AsyncSession, statement: Update | Delete) -> int:
    """Run a statement that writes. Returns how many rows. What the session has read stays as it was read."""
    return (await session.exec(statement.execution_options(synchronize_session=False))).rowcount
