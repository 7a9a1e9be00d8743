"""Searches an index of vectors (HNSW, by PostgreSQL's extension pgvector) where a reader can see many chunks.

The index finds nearly all of what an exact search finds, in a part of its time. It has the vectors in plain text, since
it must compare them: so it is off unless the operator turns it on. The condition of the tenant and the owner stands in
the WHERE clause, and the scan goes on until enough rows fulfil it. Where it gives up before, the search is exact.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.database.vector_index_schema import MAX_DIMENSIONS, TABLE, create_index, exists, type_of
from tollkeeper.retrieval.contents import DocumentContents
from tollkeeper.retrieval.keywords import ChunkKey
from tollkeeper.retrieval.models import DocumentVectors
from tollkeeper.retrieval.vectors import ExactSearch, ScoredChunk, opened_vectors
from tollkeeper.retrieval.visibility import Visible

if TYPE_CHECKING:
    from tollkeeper.retrieval.vectors import Vectors

EXPLORED = 400
"""`hnsw.ef_search`: the candidates that one step of a scan keeps."""
MAX_SCANNED = 200_000
"""`hnsw.max_scan_tuples`: the rows after which a scan gives up that has not found enough of the reader's."""
FILLED_AT_ONCE = 1
"""Rows of vectors that one transaction adds to the index."""

_SETTINGS = text(
    "SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true),"
    f" set_config('hnsw.ef_search', '{EXPLORED}', true), set_config('hnsw.max_scan_tuples', '{MAX_SCANNED}', true)"
)
_OF_READER = "tenant_id = :tenant_id AND owner_id IN (:shared, :reader) AND model = :model"
_IS_INDEXED = (
    f"EXISTS (SELECT 1 FROM {TABLE} AS filled WHERE filled.tenant_id = document_vectors.tenant_id"
    " AND filled.document_id = document_vectors.document_id AND filled.first = document_vectors.first)"
)
_SIZE = text(
    f"SELECT COALESCE(sum(count), 0), COALESCE(bool_and({_IS_INDEXED}), false) FROM document_vectors"
    f" WHERE {_OF_READER} AND dimensions = :dimensions"
)
_UNFILLED = text(
    "SELECT tenant_id, document_id, first, owner_id, model, dimensions, count, vectors FROM document_vectors"
    f" WHERE dimensions <= {MAX_DIMENSIONS} AND NOT {_IS_INDEXED}"
    " AND (tenant_id, document_id, first) > (:tenant_id, :document_id, :first)"
    f" ORDER BY tenant_id, document_id, first LIMIT {FILLED_AT_ONCE} FOR KEY SHARE SKIP LOCKED"
)
_START: dict[str, int | str] = {"tenant_id": 0, "document_id": "", "first": 0}
_FILL = text(
    f"INSERT INTO {TABLE} (tenant_id, document_id, first, number, owner_id, model, dimensions, embedding) VALUES"
    " (:tenant_id, :document_id, :first, :number, :owner_id, :model, :dimensions,"
    " CAST(CAST(:vector AS text) AS vector))"
    " ON CONFLICT DO NOTHING"
)
_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtext('tollkeeper.document_index'))")


class IndexedSearch:
    """Searches the index if it is worth it and has all of the reader's vectors; else, exactly. A reader with fewer than
    `min_chunks` has them compared one by one: of 10,000, that takes some hundredths of a second.
    """

    def __init__(self, exact: ExactSearch, *, min_chunks: int) -> None:
        self._exact = exact
        self._min_chunks = min_chunks

    async def search(
        self, session: AsyncSession, visible: Visible, model: str, question: "Vectors", most: int
    ) -> list[ScoredChunk]:
        """The chunks with the highest cosines, at most so many, the best first."""
        found = None
        if not visible.documents and len(question) <= MAX_DIMENSIONS:
            found = await self._search_index(session, visible, model, question, most)
        return found if found is not None else await self._exact.search(session, visible, model, question, most)

    async def _search_index(
        self, session: AsyncSession, visible: Visible, model: str, question: "Vectors", most: int
    ) -> list[ScoredChunk] | None:
        """None if the index has not all of the reader's vectors, or the scan has given up."""
        connection = await session.connection()
        if not await connection.run_sync(exists):
            return None
        shared, reader = visible.owners
        values: dict[str, Any] = {
            "tenant_id": visible.reader.tenant_id,
            "shared": shared,
            "reader": reader,
            "model": model,
        }
        sized = values | {"dimensions": len(question)}
        chunks, is_filled = (await connection.execute(_SIZE, sized)).one()
        if not is_filled or chunks < self._min_chunks:
            return None
        await connection.execute(_SETTINGS)
        values |= {"vector": written(question), "most": most}
        rows = (await connection.execute(text(nearest(len(question))), values)).all()
        found = [ScoredChunk(ChunkKey(document_id, number), float(score)) for document_id, number, score in rows]
        return sorted(found, key=lambda one: -one.score) if len(found) >= min(most, chunks) else None


def nearest(dimensions: int) -> str:
    """The statement that scans the index for vectors of so many dimensions."""
    kind = type_of(dimensions)
    distance = f"(CAST(embedding AS {kind}) <=> CAST(CAST(:vector AS text) AS {kind}))"
    return (
        f"SELECT document_id, number, 1 - {distance} FROM {TABLE}"
        f" WHERE {_OF_READER} AND dimensions = {dimensions} ORDER BY {distance} LIMIT :most"
    )


class IndexFiller:
    """Adds to the index what it lacks: vectors of new documents, and of those from before it was turned on.

    What is deleted or embedded again leaves the index with the rows that it was made of.
    """

    def __init__(self, contents: DocumentContents) -> None:
        self._contents = contents
        self._after: dict[str, int | str] = dict(_START)

    async def fill(self, session: AsyncSession) -> int:
        """Add some, in the order of their keys. Returns how many rows of vectors it was; 0 after the last ones, or if
        another process is adding some: the next time it begins anew.
        """
        connection = await session.connection()
        if not await connection.run_sync(exists) or not (await connection.execute(_LOCK)).scalar_one():
            return 0
        rows = [DocumentVectors(**row) for row in (await connection.execute(_UNFILLED, self._after)).mappings()]
        self._after = {name: getattr(rows[-1], name) for name in _START} if rows else dict(_START)
        for dimensions in {row.dimensions for row in rows}:
            await connection.run_sync(create_index, dimensions)
        values = await asyncio.to_thread(self._values_of, rows)
        if values:
            await connection.execute(_FILL, values)
        return len(rows)

    def _values_of(self, rows: "list[DocumentVectors]") -> list[dict[str, Any]]:
        names = ("tenant_id", "document_id", "first", "owner_id", "model", "dimensions")
        values: list[dict[str, Any]] = []
        for row in rows:
            of_row = {name: getattr(row, name) for name in names}
            for number, vector in enumerate(opened_vectors(self._contents, row), row.first):
                values.append(of_row | {"number": number, "vector": written(vector)})
        return values


def written(vector: "Vectors") -> str:
    """A vector as pgvector reads it."""
    return "[" + ",".join(map(repr, vector.tolist())) + "]"
