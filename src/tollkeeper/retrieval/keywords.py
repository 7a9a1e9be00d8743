"""The index of words: FTS5 on SQLite, a `tsvector` on PostgreSQL. Both have keyed hashes in place of the words.

Sources: SQLite, "FTS5 extension"; PostgreSQL, "Controlling text search".
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, text
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.retrieval.contents import DocumentContents
from tollkeeper.retrieval.visibility import Visible
from tollkeeper.retrieval.words import words_of

MAX_POSITION = 16_383
"""Of a lexeme in a tsvector."""


class ChunkKey(NamedTuple):
    """A chunk of a document of the tenant that is meant."""

    document_id: str
    number: int


_VISIBLE = "c.tenant_id = :tenant_id AND c.owner_id IN (:shared, :reader)"
_CHOSEN = " AND c.document_id IN :documents"
_SEARCHES = {
    "sqlite": (
        f"SELECT c.document_id, c.number FROM chunk_words JOIN document_chunks AS c ON c.id = chunk_words.rowid"
        f" WHERE chunk_words MATCH :words AND {_VISIBLE}%s ORDER BY bm25(chunk_words), c.id LIMIT :most"
    ),
    "postgresql": (
        f"SELECT c.document_id, c.number FROM document_chunks AS c"
        f" WHERE c.words @@ CAST(:words AS tsquery) AND {_VISIBLE}%s"
        " ORDER BY ts_rank(c.words, CAST(:words AS tsquery), 1) DESC, c.id LIMIT :most"
    ),
}
_OPERATORS = {"sqlite": " OR ", "postgresql": " | "}
_WRITES = {
    "sqlite": "INSERT INTO chunk_words (rowid, words) VALUES (:id, :words)",
    "postgresql": (
        "UPDATE document_chunks SET words = CAST(:words AS tsvector) WHERE id = :id AND tenant_id = :tenant_id"
    ),
}


def indexed(contents: DocumentContents, tenant_id: int, chunk: str, dialect: str) -> str:
    """What the index has of a chunk. It takes a hash per word, which is remembered for the words of one call."""
    known: dict[str, str] = {}
    hashed = [known.get(word) or known.setdefault(word, contents.word(word, tenant_id)) for word in words_of(chunk)]
    if dialect == "sqlite":
        return " ".join(hashed)
    positions: dict[str, list[str]] = {}
    for position, word in enumerate(hashed[:MAX_POSITION], 1):
        positions.setdefault(word, []).append(str(position))
    return " ".join(f"'{word}':{','.join(places)}" for word, places in positions.items())


async def write(session: AsyncSession, tenant_id: int, rows: Sequence[tuple[int, str]]) -> None:
    """Index chunks: their ids, and what `indexed` returned for them."""
    connection = await session.connection()
    values = [{"id": chunk_id, "words": words, "tenant_id": tenant_id} for chunk_id, words in rows]
    await connection.execute(text(_WRITES[connection.dialect.name]), values)


async def search(session: AsyncSession, visible: Visible, hashed: Sequence[str], most: int) -> list[ChunkKey]:
    """The chunks that have any of these hashed words, at most so many, the best first."""
    if not hashed:
        return []
    connection = await session.connection()
    dialect = connection.dialect.name
    shared, reader = visible.owners
    values = {
        "tenant_id": visible.reader.tenant_id,
        "shared": shared,
        "reader": reader,
        "most": most,
        "words": _OPERATORS[dialect].join(f'"{word}"' if dialect == "sqlite" else f"'{word}'" for word in hashed),
    }
    statement = text(_SEARCHES[dialect] % (_CHOSEN if visible.documents else ""))
    if visible.documents:
        statement = statement.bindparams(bindparam("documents", expanding=True))
        values["documents"] = list(visible.documents)
    return [ChunkKey(*row) for row in (await connection.execute(statement, values)).all()]
