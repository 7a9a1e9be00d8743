"""Exact search over vectors: the cosine of the question with each chunk that the reader may see.

The vectors are stored encrypted, and kept decrypted in memory for the next search, up to a limit. What is searched is
what the WHERE clause of the present search returned: the memory only saves reading it again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from sqlmodel import and_, col, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.retrieval.contents import DocumentContents, vectors_part
from tollkeeper.retrieval.keywords import ChunkKey
from tollkeeper.retrieval.models import DocumentVectors
from tollkeeper.retrieval.visibility import Visible
from tollkeeper.worker_thread import pause

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

READ_AT_ONCE = 128
"""Rows of vectors that one statement reads."""


class Segment(NamedTuple):
    """The vectors of some `chunks` of one document, from the number `first` on."""

    tenant_id: int
    document_id: str
    first: int
    model: str
    chunks: int


class ScoredChunk(NamedTuple):
    """A chunk, and the cosine of its vector with the question's: -1 to 1."""

    key: ChunkKey
    score: float


class VectorMemory:
    """Keeps vectors in memory, at most `max_bytes` of them. The least recently used ones go first."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Segment, Vectors] = OrderedDict()
        self.bytes = 0

    def get(self, segment: Segment) -> "Vectors | None":
        found = self._kept.get(segment)
        if found is not None:
            self._kept.move_to_end(segment)
        return found

    def put(self, segment: Segment, vectors: "Vectors") -> None:
        if vectors.nbytes > self._max_bytes or segment in self._kept:
            return
        self._kept[segment] = vectors
        self.bytes += vectors.nbytes
        while self.bytes > self._max_bytes:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes

    def forget(self, tenant_id: int, document_id: str) -> None:
        """Remove the vectors of a document."""
        for segment in [one for one in self._kept if (one.tenant_id, one.document_id) == (tenant_id, document_id)]:
            self.bytes -= self._kept.pop(segment).nbytes


class ExactSearch:
    """Compares the question with every vector of the model that the reader may see."""

    def __init__(self, contents: DocumentContents, memory: VectorMemory) -> None:
        self._contents = contents
        self._memory = memory

    async def search(
        self, session: AsyncSession, visible: Visible, model: str, question: "Vectors", most: int
    ) -> list[ScoredChunk]:
        """The chunks with the highest cosines, at most so many, the best first."""
        segments = await self._segments(session, visible, model, len(question))
        found: list[ScoredChunk] = []
        for start in range(0, len(segments), READ_AT_ONCE):
            some = segments[start : start + READ_AT_ONCE]
            matrices = await self._matrices(session, visible, some)
            best = await asyncio.to_thread(_best, some, matrices, question, most)
            found = sorted((*found, *best), key=lambda one: -one.score)[:most]
        return found

    async def _segments(self, session: AsyncSession, visible: Visible, model: str, dimensions: int) -> list[Segment]:
        table = DocumentVectors
        query = select(table.tenant_id, table.document_id, table.first, table.count).where(
            visible.of_part(table), table.model == model, table.dimensions == dimensions
        )
        return [
            Segment(tenant_id, document_id, first, model, count)
            for tenant_id, document_id, first, count in (await session.exec(query)).all()
        ]

    async def _matrices(
        self, session: AsyncSession, visible: Visible, segments: Sequence[Segment]
    ) -> "list[Vectors | None]":
        """The vectors of these segments, from memory or from the database; None for what is gone meanwhile."""
        missing = [one for one in segments if self._memory.get(one) is None]
        read: dict[Segment, Vectors] = {}
        if missing:
            table = DocumentVectors
            wanted = or_(*(and_(table.document_id == one.document_id, table.first == one.first) for one in missing))
            query = select(table).where(visible.of_part(table), col(table.model) == missing[0].model, wanted)
            rows = (await session.exec(query)).all()
            read = await asyncio.to_thread(self._opened, rows)
            for segment, vectors in read.items():
                self._memory.put(segment, vectors)
        return [found if (found := self._memory.get(one)) is not None else read.get(one) for one in segments]

    def _opened(self, rows: Sequence[DocumentVectors]) -> "dict[Segment, Vectors]":
        found: dict[Segment, Vectors] = {}
        for row in rows:
            segment = Segment(row.tenant_id, row.document_id, row.first, row.model, row.count)
            found[segment] = opened_vectors(self._contents, row)
        return found


def opened_vectors(contents: DocumentContents, row: DocumentVectors) -> "Vectors":
    """The vectors of a row, one for each chunk."""
    import numpy as np

    part = vectors_part(row.model, row.first)
    plain = contents.opened(row.vectors, row.tenant_id, row.document_id, part)
    return np.frombuffer(plain, np.float32).reshape(row.count, row.dimensions)


def _best(
    segments: Sequence[Segment], matrices: "Sequence[Vectors | None]", question: "Vectors", most: int
) -> list[ScoredChunk]:
    import numpy as np

    present = [(one, matrix) for one, matrix in zip(segments, matrices, strict=True) if matrix is not None]
    if not present:
        return []
    scores = np.empty(sum(one.chunks for one, _ in present), np.float32)
    starts: list[int] = []
    at = 0
    for one, matrix in present:
        starts.append(at)
        np.dot(matrix, question, out=scores[at : at + one.chunks])
        at += one.chunks
    pause()
    order = np.argpartition(-scores, min(most, at) - 1)[:most] if at > most else np.arange(at)
    found: list[ScoredChunk] = []
    for index in order[np.argsort(-scores[order], kind="stable")]:
        place = int(np.searchsorted(starts, index, side="right")) - 1
        segment = present[place][0]
        found.append(
            ScoredChunk(ChunkKey(segment.document_id, segment.first + int(index) - starts[place]), float(scores[index]))
        )
    return found
