"""Documents in a database, with vectors of the offline provider or of chance."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import SecretStr

from support.factories import make_principal
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.principal import Principal
from tollkeeper.retrieval import keywords
from tollkeeper.retrieval.contents import NAME, DocumentContents, chunk_part, vectors_part
from tollkeeper.retrieval.models import Document, DocumentChunk, DocumentVectors

if TYPE_CHECKING:
    from tollkeeper.retrieval.vectors import Vectors

MODEL = "hashing"


@pytest.fixture
async def stored(database_url: str) -> AsyncIterator["Stored"]:
    """A database that documents can be put into."""
    database = Database(database_url)
    keys = DataKeys(SecretStr("a" * 32))
    await keys.load(database, SystemClock())
    yield Stored(database, DocumentContents(keys), await make_principal(database))
    await database.close()


class Stored:
    """Documents of one user."""

    def __init__(self, database: Database, contents: DocumentContents, owner: Principal) -> None:
        self.database, self.contents, self.owner = database, contents, owner

    async def add(
        self,
        document_id: str,
        texts: Sequence[str],
        vectors: "Vectors",
        owner_id: int | None = None,
        *,
        segment: int = 4,
    ) -> None:
        """Store a ready document with these chunks and their vectors, `segment` of them in a row."""
        user, seal = self.owner, self.contents.seal
        owned: dict[str, Any] = {
            "tenant_id": user.tenant_id,
            "owner_id": user.user_id if owner_id is None else owner_id,
        }
        name = seal(b"name", user.tenant_id, document_id, NAME)
        times: dict[str, Any] = {"created_ms": 1, "queued_ms": 1, "available_ms": 1}
        described: dict[str, Any] = {"media_type": "text/plain", "size": 1, "status": "ready", "correlation_id": "-"}
        part: dict[str, Any] = owned | {"document_id": document_id}
        chunks = [
            DocumentChunk(
                number=number, text=seal(text.encode(), user.tenant_id, document_id, chunk_part(number)), **part
            )
            for number, text in enumerate(texts)
        ]
        async with self.database.session() as session:
            dialect = (await session.connection()).dialect.name
            session.add(Document(id=document_id, user_id=user.user_id, name=name, **described, **times, **owned))
            await session.flush()
            session.add_all(chunks)
            await session.flush()
            words = [keywords.indexed(self.contents, user.tenant_id, text, dialect) for text in texts]
            await keywords.write(
                session, user.tenant_id, [(row.id or 0, one) for row, one in zip(chunks, words, strict=True)]
            )
            for first in range(0, len(texts), segment):
                some = np.ascontiguousarray(vectors[first : first + segment], np.float32)
                sealed = seal(some.tobytes(), user.tenant_id, document_id, vectors_part(MODEL, first))
                size: dict[str, Any] = {"dimensions": some.shape[1], "count": some.shape[0]}
                session.add(DocumentVectors(first=first, model=MODEL, vectors=sealed, **size, **part))
