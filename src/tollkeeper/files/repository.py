"""Reads and writes the rows of files."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Delete, Update, func, text
from sqlmodel import and_, col, delete, or_, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.files.models import FileChunk, FileStatus, StoredFile
from tollkeeper.principal import Principal

READY, DELETED = FileStatus.READY.value, FileStatus.DELETED.value
_LOCK_SPACE = text("SELECT pg_advisory_xact_lock(hashtextextended('tollkeeper files', :tenant_id))")


async def lock_space(session: AsyncSession, tenant_id: int) -> None:
    """Let no other transaction change how many bytes the tenant has stored, until this one ends.

    On SQLite, the first write of the transaction does that.
    """
    if session.get_bind().dialect.name == "postgresql":
        await (await session.connection()).execute(_LOCK_SPACE, {"tenant_id": tenant_id})


async def stored_space(session: AsyncSession, tenant_id: int) -> tuple[int, int]:
    """How many bytes a tenant has stored, with those that it is uploading; and in how many files."""
    query = select(func.coalesce(func.sum(StoredFile.bytes), 0), func.count()).where(
        StoredFile.tenant_id == tenant_id, StoredFile.status != DELETED
    )
    size, count = (await session.exec(query)).one()
    return int(size), count


async def find(session: AsyncSession, owner: Principal, file_id: str, purposes: Sequence[str]) -> StoredFile | None:
    """The user's file of this id, if it is complete and for one of these purposes."""
    query = select(StoredFile).where(_is_shown(owner, purposes), StoredFile.id == file_id)
    return (await session.exec(query)).first()


async def list_page(
    session: AsyncSession,
    owner: Principal,
    purposes: Sequence[str],
    *,
    after: str | None,
    newest_first: bool,
    limit: int,
) -> list[StoredFile]:
    """At most `limit` files of the user, those that follow this id."""
    query = select(StoredFile).where(_is_shown(owner, purposes))
    if after is not None:
        query = query.where(col(StoredFile.id) < after if newest_first else col(StoredFile.id) > after)
    order = col(StoredFile.id).desc() if newest_first else col(StoredFile.id)
    return list((await session.exec(query.order_by(order).limit(limit))).all())


async def read_chunk(session: AsyncSession, file: StoredFile, start: int) -> FileChunk | None:
    """The chunk that has this byte of a file. None behind its end."""
    is_of_file = FileChunk.tenant_id == file.tenant_id, FileChunk.file_id == file.id
    query = select(FileChunk).where(*is_of_file, col(FileChunk.ends_at) > start)
    return (await session.exec(query.order_by(col(FileChunk.number)).limit(1))).first()


async def mark_deleted(session: AsyncSession, file: StoredFile) -> bool:
    """Hide a file, whose chunks are to be deleted. Returns whether this did it."""
    is_there = _is(file), col(StoredFile.status) != DELETED
    return bool(await _write(session, update(StoredFile).where(*is_there).values(status=DELETED)))


async def delete_chunks(session: AsyncSession, file: StoredFile, limit: int) -> int:
    """Delete at most `limit` chunks of a file that is marked as deleted; at last the file. Returns how many chunks."""
    numbers: Any = (
        select(FileChunk.number)
        .where(FileChunk.tenant_id == file.tenant_id, FileChunk.file_id == file.id)
        .order_by(col(FileChunk.number))
        .limit(limit)
    )
    found = (await session.exec(numbers)).all()
    if not found:
        await _write(session, delete(StoredFile).where(_is(file), col(StoredFile.status) == DELETED))
        return 0
    is_chunk = col(FileChunk.tenant_id) == file.tenant_id, col(FileChunk.file_id) == file.id
    await _write(session, delete(FileChunk).where(*is_chunk, col(FileChunk.number).in_(found)))
    return len(found)


async def list_due(
    session: AsyncSession, *, now_ms: int, started_before_ms: int, keep: ColumnElement[bool], limit: int
) -> list[StoredFile]:
    """Files to be deleted: those that are marked, that have expired, and whose upload was begun before that time and
    has not ended. `keep` is the condition for files that stay.
    """
    status = col(StoredFile.status)
    is_due = or_(
        status == DELETED,
        and_(status == READY, col(StoredFile.expires_ms) <= now_ms),
        and_(status == FileStatus.UPLOADING.value, col(StoredFile.created_ms) < started_before_ms),
    )
    return list((await session.exec(select(StoredFile).where(is_due, ~keep).limit(limit))).all())


def _is(file: StoredFile) -> ColumnElement[bool]:
    return and_(col(StoredFile.tenant_id) == file.tenant_id, col(StoredFile.id) == file.id)


def _is_shown(owner: Principal, purposes: Sequence[str]) -> ColumnElement[bool]:
    is_theirs = and_(col(StoredFile.tenant_id) == owner.tenant_id, col(StoredFile.user_id) == owner.user_id)
    return and_(is_theirs, col(StoredFile.status) == READY, col(StoredFile.purpose).in_(purposes))


async def _write(session: AsyncSession, statement: Update | Delete) -> int:
    """Run a statement that writes. Returns how many rows."""
    return (await session.exec(statement.execution_options(synchronize_session=False))).rowcount
