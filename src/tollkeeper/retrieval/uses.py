"""Notes where text of documents is kept outside of them.

A place is noted before the text gets there, and the document is locked meanwhile: so its deletion either finds the
note, or comes first, and the text does not get there.
"""

from collections.abc import Collection

from sqlalchemy import text
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.principal import Principal
from tollkeeper.retrieval.models import Document, UseKind
from tollkeeper.retrieval.visibility import Visible

_NOTE = text(
    "INSERT INTO document_uses (tenant_id, document_id, kind, key, user_id, created_ms)"
    " VALUES (:tenant_id, :document_id, :kind, :key, :user_id, :created_ms) ON CONFLICT DO NOTHING"
)
Places = Collection[tuple[UseKind, str]]
"""Where text is kept: kinds of places, each with the key of the place. The key of a cached answer is empty."""


async def note_uses(
    session: AsyncSession, user: Principal, documents: Collection[str], places: Places, now_ms: int
) -> set[str]:
    """Note that text of these documents is kept at these places. Returns those that are still there."""
    visible = Visible(user, tuple(documents))
    query = select(Document.id).where(visible.of_document()).with_for_update(read=True)
    present = set((await session.exec(query)).all())
    rows = [
        {"tenant_id": user.tenant_id, "document_id": document_id, "kind": kind.value, "key": key}
        | {"user_id": user.user_id, "created_ms": now_ms}
        for document_id in present
        for kind, key in places
    ]
    if rows:
        await (await session.connection()).execute(_NOTE, rows)
    return present
