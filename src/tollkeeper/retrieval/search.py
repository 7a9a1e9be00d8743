"""Searches documents by vectors and by words, and decides which of the chunks found are relevant."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sqlmodel import and_, col, or_, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.retrieval import keywords
from tollkeeper.retrieval.contents import NAME, DocumentContents, chunk_part
from tollkeeper.retrieval.fusion import fuse
from tollkeeper.retrieval.keywords import ChunkKey
from tollkeeper.retrieval.models import Document, DocumentChunk
from tollkeeper.retrieval.vectors import ScoredChunk
from tollkeeper.retrieval.visibility import Visible
from tollkeeper.retrieval.words import query_words, share_of
from tollkeeper.worker_thread import pause, run_by_size

if TYPE_CHECKING:
    from tollkeeper.retrieval.vectors import Vectors

CANDIDATES = 50
"""How many chunks each of the two searches gives."""
RELEVANT_SHARE = 0.5
"""A chunk with this share of the question's words is relevant, whatever its vector."""
WORK_PER_CHARACTER = 4
"""A character can be so many words (U+FDFA, in its compatibility decomposition)."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is searched for. `vector` is of `model`. At most `top_k` chunks are wanted. With `min_score`, only those
    whose cosine is no less; without, those whose cosine is at least the installation's, or that have half of the words.
    """

    text: str
    model: str
    vector: "Vectors"
    top_k: int
    min_score: float | None = None


class Passage(NamedTuple):
    """A chunk that was found. `score` is the cosine with the question; None if the words alone have found it."""

    document_id: str
    name: str
    number: int
    text: str
    score: float | None


class VectorSearch(Protocol):
    """Compares the question with the chunks that the reader may see."""

    async def search(
        self, session: AsyncSession, visible: Visible, model: str, question: "Vectors", most: int
    ) -> list[ScoredChunk]:
        """The chunks with the highest cosines, at most so many, the best first."""
        ...


class DocumentSearch:
    """Finds passages in the documents that a reader may see."""

    def __init__(self, contents: DocumentContents, vectors: VectorSearch, *, min_score: float) -> None:
        self._contents = contents
        self._vectors = vectors
        self._min_score = min_score

    async def find(self, session: AsyncSession, visible: Visible, question: Question) -> list[Passage]:
        """The relevant passages, the best first."""
        words = query_words(question.text)
        hashed = [self._contents.word(word, visible.reader.tenant_id) for word in words]
        by_words = await keywords.search(session, visible, hashed, CANDIDATES)
        scored = await self._vectors.search(session, visible, question.model, question.vector, CANDIDATES)
        scores = {one.key: one.score for one in scored}
        found = await self._read(session, visible, fuse(list(scores), by_words))
        passages = [
            passage._replace(score=scores.get(ChunkKey(passage.document_id, passage.number))) for passage in found
        ]
        work = WORK_PER_CHARACTER * sum(len(one.text) for one in passages)
        return await run_by_size(work, self._relevant, passages, question, words)

    def _relevant(self, passages: Sequence[Passage], question: Question, words: Sequence[str]) -> list[Passage]:
        """As many of the passages as are wanted, the first relevant ones."""
        found: list[Passage] = []
        for one in passages:
            pause()
            if len(found) == question.top_k:
                break
            if self._is_relevant(one, question, words):
                found.append(one)
        return found

    def _is_relevant(self, passage: Passage, question: Question, words: Sequence[str]) -> bool:
        if question.min_score is not None:
            return passage.score is not None and passage.score >= question.min_score
        if passage.score is not None and passage.score >= self._min_score:
            return True
        return share_of(words, passage.text) >= RELEVANT_SHARE

    async def _read(self, session: AsyncSession, visible: Visible, keys: Sequence[ChunkKey]) -> list[Passage]:
        """The texts of these chunks, in this order; without those that are gone meanwhile."""
        if not keys:
            return []
        chunk = DocumentChunk
        wanted = or_(*(and_(chunk.document_id == one.document_id, chunk.number == one.number) for one in keys))
        of_chunk = and_(col(chunk.tenant_id) == col(Document.tenant_id), col(chunk.document_id) == col(Document.id))
        query = select(chunk.document_id, Document.name, chunk.number, chunk.text).join(Document, of_chunk)
        rows = (await session.exec(query.where(visible.of_part(chunk), visible.of_document(), wanted))).all()
        found = {ChunkKey(row[0], row[2]): self._passage(visible.reader.tenant_id, *row) for row in rows}
        return [found[key] for key in keys if key in found]

    def _passage(self, tenant_id: int, document_id: str, name: bytes, number: int, text: bytes) -> Passage:
        opened = self._contents.opened
        plain_name = opened(name, tenant_id, document_id, NAME).decode()
        plain_text = opened(text, tenant_id, document_id, chunk_part(number)).decode()
        return Passage(document_id, plain_name, number, plain_text, None)
