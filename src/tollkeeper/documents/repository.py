"""Reads and writes the rows of documents, but for searches."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Delete, Update, func, text
from sqlalchemy.orm import defer
from sqlmodel import and_, col, delete, exists, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.principal import Principal
from tollkeeper.retrieval.models import Document, DocumentChunk, DocumentStatus, DocumentUse, DocumentVectors
from tollkeeper.retrieval.visibility import Visible

CLAIM_MS = 120_000
"""How long a document is left to the process that works on it, from each of its steps on. Parsing is the longest."""
DELETED_AT_ONCE = 200
"""Chunks that one transaction deletes: it must not keep others from SQLite's only lock for long."""
WITHOUT_CONTENT = defer(Document.content, raiseload=True)  # type: ignore[arg-type]
OPEN = (DocumentStatus.PENDING.value, DocumentStatus.PROCESSING.value, DocumentStatus.DELETING.value)


async def find(session: AsyncSession, reader: Principal, document_id: str) -> Document | None:
    """The document of this id, if the reader may see it; without its content."""
    query = select(Document).options(WITHOUT_CONTENT).where(Visible(reader, (document_id,)).of_document())
    return (await session.exec(query)).first()


async def find_by_key(session: AsyncSession, owner: Principal, key: str) -> Document | None:
    """The document that the user has uploaded with this idempotency key."""
    are_theirs = Document.tenant_id == owner.tenant_id, Document.user_id == owner.user_id
    query = select(Document).options(WITHOUT_CONTENT).where(*are_theirs, Document.idempotency_key == key)
    return (await session.exec(query)).first()


async def list_page(session: AsyncSession, reader: Principal, *, before: str | None, limit: int) -> list[Document]:
    """At most `limit` documents that the reader may see, the newest first, without their contents."""
    query = select(Document).options(WITHOUT_CONTENT).where(Visible(reader).of_document())
    if before is not None:
        query = query.where(col(Document.id) < before)
    return list((await session.exec(query.order_by(col(Document.id).desc()).limit(limit))).all())


async def visible_among(session: AsyncSession, visible: Visible) -> set[str]:
    """Which of the chosen documents the reader may see."""
    return set((await session.exec(select(Document.id).where(visible.of_document()))).all())


async def lock_usage(session: AsyncSession, tenant_id: int) -> tuple[int, int]:
    """How many documents the tenant has, and their bytes. No other upload of it is counted before this one ends.

    On SQLite, a transaction that has written is alone.
    """
    connection = await session.connection()
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtext('tollkeeper documents'), :tenant_id)")
        await connection.execute(lock, {"tenant_id": tenant_id})
    else:
        await write(session, update(Document).where(col(Document.tenant_id) == -1).values(attempts=0))
    query = select(func.count(), func.coalesce(func.sum(Document.size), 0)).where(Document.tenant_id == tenant_id)
    count, size = (await session.exec(query)).one()
    return int(count), int(size)


def has_due(now_ms: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether a document of any tenant can be claimed."""
    return exists().where(*_is_available(now_ms))


def _is_available(now_ms: int | ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
    return col(Document.status).in_(OPEN), col(Document.available_ms) <= now_ms


async def claim(session: AsyncSession, after_tenant: int, now_ms: int) -> Document | None:
    """Claim the next document to be worked on: the oldest of the next tenant after this one, in a circle.

    Returns None if there is none, or if another process was faster.
    """
    available = and_(*_is_available(now_ms))
    order = col(Document.tenant_id), col(Document.id)
    for is_next in (col(Document.tenant_id) > after_tenant, col(Document.tenant_id) <= after_tenant):
        query = select(Document).where(available, is_next).order_by(*order).limit(1).with_for_update(skip_locked=True)
        document = (await session.exec(query)).first()
        if document is not None:
            session.expunge(document)
            return document if await change(session, document, now_ms + CLAIM_MS) else None
    return None


async def change(session: AsyncSession, document: Document, available_ms: int, **values: Any) -> bool:
    """Change a document that this process has claimed, and move its claim. Returns whether the claim still holds: else
    nothing is changed. The object has the new values then.
    """
    is_same = col(Document.status) == document.status
    is_claimed = _is(document), is_same, col(Document.available_ms) == document.available_ms
    values |= {"available_ms": available_ms}
    if not await write(session, update(Document).where(*is_claimed).values(**values)):
        return False
    for name, value in values.items():
        setattr(document, name, value)
    return True


async def begin_deletion(session: AsyncSession, document: Document, now_ms: int) -> None:
    """From now on the document is not shown, and nothing of its content is left in its row."""
    values = {"status": DocumentStatus.DELETING.value, "content": None, "name": b"", "available_ms": now_ms + CLAIM_MS}
    await write(session, update(Document).where(_is(document)).values(**values, idempotency_key=None))


async def delete_some(session: AsyncSession, document: Document) -> bool:
    """Delete some chunks of a document, with their vectors. Returns whether there were none."""
    chunk, vectors = DocumentChunk, DocumentVectors
    some = select(col(chunk.number)).where(is_part(chunk, document)).order_by(col(chunk.number)).limit(DELETED_AT_ONCE)
    numbers = (await session.exec(some)).all()
    if numbers:
        last = numbers[-1]
        await write(session, delete(chunk).where(is_part(chunk, document), col(chunk.number) <= last))
        await write(session, delete(vectors).where(is_part(vectors, document), col(vectors.first) <= last))
    return not numbers


async def finish_deletion(session: AsyncSession, document: Document) -> None:
    """Delete what is left of a document."""
    await remove_vectors(session, document)
    await write(session, delete(DocumentUse).where(is_part(DocumentUse, document)))
    await write(session, delete(Document).where(_is(document)))


async def delete_old_uses(session: AsyncSession, before_ms: int, limit: int) -> int:
    """Delete notes of places where nothing is kept for so long: the oldest ones. Returns how many."""
    created_ms = col(DocumentUse.created_ms)
    query = select(created_ms).where(created_ms < before_ms).order_by(created_ms).offset(limit - 1).limit(1)
    last_ms = (await session.exec(query)).first()
    is_old = created_ms < before_ms if last_ms is None else created_ms <= last_ms
    return await write(session, delete(DocumentUse).where(is_old))


async def remove_parts(session: AsyncSession, document: Document) -> bool:
    """Delete some chunks of a document that is to be parsed again. Returns whether there were none."""
    chunk = DocumentChunk
    some = select(col(chunk.id)).where(is_part(chunk, document)).limit(DELETED_AT_ONCE)
    ids = (await session.exec(some)).all()
    if ids:
        await write(session, delete(chunk).where(is_part(chunk, document), col(chunk.id).in_(ids)))
    return not ids


async def remove_vectors(session: AsyncSession, document: Document) -> None:
    """Delete the vectors of a document, which are of another model."""
    await write(session, delete(DocumentVectors).where(is_part(DocumentVectors, document)))


async def forget_key(session: AsyncSession, document: Document) -> None:
    """Free the idempotency key of a document."""
    await write(session, update(Document).where(_is(document)).values(idempotency_key=None, fingerprint=None))


async def chunk_texts(session: AsyncSession, document: Document, first: int, count: int) -> Sequence[DocumentChunk]:
    """The chunks of a document with the numbers from `first` on, in order."""
    chunk = DocumentChunk
    numbers = col(chunk.number) >= first, col(chunk.number) < first + count
    return (
        await session.exec(select(chunk).where(is_part(chunk, document), *numbers).order_by(col(chunk.number)))
    ).all()


async def queue_outdated(session: AsyncSession, model: str, now_ms: int, limit: int) -> int:
    """Have documents whose vectors are of another model embedded again. Returns how many were found."""
    outdated = col(Document.status) == DocumentStatus.READY.value, col(Document.model) != model
    some: Any = select(Document.tenant_id, Document.id).where(*outdated).limit(limit)
    rows = (await session.exec(some)).all()
    values = {"status": DocumentStatus.PENDING.value, "embedded": 0, "attempts": 0, "completed_ms": None}
    values |= {"api_key": None, "queued_ms": now_ms, "available_ms": now_ms}
    for tenant_id, document_id in rows:
        is_it = col(Document.tenant_id) == tenant_id, col(Document.id) == document_id
        await write(session, update(Document).where(*is_it, *outdated).values(**values))
    return len(rows)


async def count_by_status(session: AsyncSession) -> tuple[dict[str, int], int | None]:
    """How many documents of each status there are, and since when the one waits that has waited longest."""
    query = select(Document.status, func.count(), func.min(Document.queued_ms)).group_by(Document.status)
    rows = {status: (count, oldest) for status, count, oldest in (await session.exec(query)).all()}
    waiting = [rows[status][1] for status in OPEN if status in rows]
    return {status.value: rows.get(status.value, (0, None))[0] for status in DocumentStatus}, min(waiting, default=None)


def is_part(table: type[DocumentChunk] | type[DocumentVectors] | type[DocumentUse], document: Document) -> Any:
    """The condition on a part of this document."""
    return and_(col(table.tenant_id) == document.tenant_id, col(table.document_id) == document.id)


def _is(document: Document) -> ColumnElement[bool]:
    return and_(col(Document.tenant_id) == document.tenant_id, col(Document.id) == document.id)


async def write(session: AsyncSession, statement: Update | Delete) -> int:
    """Run a statement that writes. Returns how many rows. What the session has read stays as it was read."""
    return (await session.exec(statement.execution_options(synchronize_session=False))).rowcount
