"""Processes one document: parses it, indexes its words, and has its chunks embedded, step by step.

Each step is stored as soon as it is done, so a process that ends in between loses one step at most.
"""

import asyncio
from collections.abc import Sequence

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.documents import repository
from tollkeeper.documents.copies import Copies
from tollkeeper.documents.deletion import delete_parts
from tollkeeper.documents.embedding import Embedder
from tollkeeper.documents.parsing.formats import DocumentFormat, Unparseable
from tollkeeper.documents.parsing.process import parse
from tollkeeper.documents.repository import CLAIM_MS
from tollkeeper.errors import (
    DatabaseUnavailable,
    DocumentExpired,
    DocumentUnreadable,
    LedgerBusy,
    LedgerUnavailable,
    ProviderFailed,
    ProviderInterrupted,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaRefusal,
    TollkeeperError,
    Unauthenticated,
)
from tollkeeper.gateway.call_record import CallEvents
from tollkeeper.gateway.results import CallFailed
from tollkeeper.identity.keys import limits_of
from tollkeeper.identity.models import ApiKey, User
from tollkeeper.key_limits import NO_LIMITS
from tollkeeper.principal import Principal, Role
from tollkeeper.retrieval import keywords
from tollkeeper.retrieval.contents import CONTENT, DocumentContents, chunk_part, vectors_part
from tollkeeper.retrieval.models import Document, DocumentChunk, DocumentStatus, DocumentVectors
from tollkeeper.tags import decode_tags
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.trace_context import join_trace
from tollkeeper.worker_thread import pause

SURFACE = "documents"
"""The surface of the charges for the vectors of documents."""
EMBEDDED_AT_ONCE = 64
"""Chunks in one call: about 20,000 tokens. OpenAI accepts 300,000 in one call."""
STORED_AT_ONCE = 200
LIFETIME_MS = 86_400_000
"""How long a document may wait for room in a quota, or for its provider."""
MAX_ATTEMPTS = 8
"""Failed calls in a row after which a document fails."""
MAX_WAIT_S = 60
COPIES_WAIT_MS = 2_000
"""How long a deletion waits for a call in flight that may still store text of the document."""
PASSING = (ProviderUnavailable, ProviderRateLimited, ProviderFailed, ProviderInterrupted, ProviderTimeout)
OUTAGES = (DatabaseUnavailable, LedgerUnavailable, LedgerBusy)

log = structlog.get_logger("tollkeeper.documents")


class ClaimLost(Exception):
    """Another process works on the document, or it is being deleted."""


class Indexing:
    """Processes documents. `embedded_chunks` counts the chunks that this process has had embedded."""

    def __init__(
        self,
        database: Database,
        call_events: CallEvents,
        embedder: Embedder,
        contents: DocumentContents,
        copies: Copies,
        clock: Clock,
    ) -> None:
        self._database = database
        self._call_events = call_events
        self._embedder = embedder
        self._contents = contents
        self._copies = copies
        self._clock = clock
        self.embedded_chunks = 0

    async def run(self, document: Document) -> None:
        """Process a document that was claimed, or finish its deletion. Raises nothing but a cancellation."""
        correlation_id.set(document.correlation_id)
        try:
            await self._run(document)
        except asyncio.CancelledError:
            await asyncio.shield(self._leave(document))
            raise
        except ClaimLost:
            return
        except OUTAGES as error:
            log.warning("documents.interrupted", reason=error.code)
        except Exception:
            log.exception("documents.failed")
            await self._fail(document, TollkeeperError())

    async def _run(self, document: Document) -> None:
        if document.status == DocumentStatus.DELETING:
            if not await delete_parts(self._database, self._copies, document):
                await self._wait_for_copies(document)
            return
        try:
            if document.chunks is None:
                await self._parse(document)
            await self._embed(document)
        except QuotaRefusal as refusal:
            await self._wait(document, refusal, refusal.retry_after_s, can_pass=not refusal.never_fits)
        except CallFailed as failed:
            cause = failed.cause
            await self._change(document, attempts=document.attempts + 1)
            can_pass = isinstance(cause, PASSING) and document.attempts < MAX_ATTEMPTS
            await self._wait(document, cause, 2**document.attempts, can_pass=can_pass)
        except Unparseable as error:
            await self._fail(document, DocumentUnreadable(str(error)))
        except OUTAGES:
            raise
        except TollkeeperError as error:
            await self._fail(document, error)

    async def _wait_for_copies(self, document: Document) -> None:
        async with self._database.session() as session:
            await repository.change(session, document, self._clock.now_ms() + COPIES_WAIT_MS)

    async def _parse(self, document: Document) -> None:
        """Store the chunks, with their words, in place of the content. Raises Unparseable."""
        await self._change(document, status=DocumentStatus.PROCESSING.value)
        assert document.content is not None
        opened = self._contents.opened
        content = await asyncio.to_thread(opened, document.content, document.tenant_id, document.id, CONTENT)
        chunks = await parse(DocumentFormat(document.media_type), content)
        del content
        is_empty = False
        while not is_empty:  # a process that has ended here before has left some
            async with self._database.session() as session:
                await self._hold(session, document)
                is_empty = await repository.remove_parts(session, document)
        for first in range(0, len(chunks), STORED_AT_ONCE):
            await self._store_chunks(document, first, chunks[first : first + STORED_AT_ONCE])
        await self._change(document, chunks=len(chunks), content=None)

    async def _store_chunks(self, document: Document, first: int, chunks: Sequence[str]) -> None:
        async with self._database.session() as session:
            await self._hold(session, document)
            dialect = (await session.connection()).dialect.name
        rows, words = await asyncio.to_thread(self._rows_of, document, first, chunks, dialect)
        async with self._database.session() as session:
            await self._hold(session, document)
            session.add_all(rows)
            await session.flush()
            indexed = [(row.id, one) for row, one in zip(rows, words, strict=True) if row.id is not None]
            await keywords.write(session, document.tenant_id, indexed)

    def _rows_of(
        self, document: Document, first: int, chunks: Sequence[str], dialect: str
    ) -> tuple[list[DocumentChunk], list[str]]:
        tenant_id, rows, words = document.tenant_id, [], []
        for number, chunk in enumerate(chunks, first):
            row = DocumentChunk(
                tenant_id=tenant_id,
                document_id=document.id,
                owner_id=document.owner_id,
                number=number,
                text=self._contents.seal(chunk.encode(), tenant_id, document.id, chunk_part(number)),
            )
            rows.append(row)
            words.append(keywords.indexed(self._contents, tenant_id, chunk, dialect))
            pause()
        return rows, words

    async def _embed(self, document: Document) -> None:
        """Have the chunks embedded that have no vector yet, and store their vectors."""
        model = self._embedder.model
        if document.model != model:
            async with self._database.session() as session:
                await self._hold(session, document, model=model, embedded=0, status=DocumentStatus.PROCESSING.value)
                await repository.remove_vectors(session, document)
        assert document.chunks is not None
        while document.embedded < document.chunks:
            await self._embed_some(document)
        await self._change(document, status=DocumentStatus.READY.value, completed_ms=self._clock.now_ms(), api_key=None)

    async def _embed_some(self, document: Document) -> None:
        first = document.embedded
        async with self._database.session() as session:
            await self._hold(session, document)
            chunks = await repository.chunk_texts(session, document, first, EMBEDDED_AT_ONCE)
            caller = await _caller_of(session, document)
        opened = self._contents.opened
        texts = [opened(one.text, one.tenant_id, one.document_id, chunk_part(one.number)).decode() for one in chunks]
        with self._call_events.record(caller, SURFACE, join_trace(())) as record:
            embedded = await self._embedder.embed(record, SURFACE, texts, cache=False)
        vectors = embedded.vectors
        part = vectors_part(embedded.model, first)
        row = DocumentVectors(
            tenant_id=document.tenant_id,
            document_id=document.id,
            first=first,
            owner_id=document.owner_id,
            model=embedded.model,
            dimensions=vectors.shape[1],
            count=len(texts),
            vectors=self._contents.seal(vectors.tobytes(), document.tenant_id, document.id, part),
        )
        async with self._database.session() as session:
            await self._hold(session, document, embedded=first + len(texts), attempts=0)
            session.add(row)
        self.embedded_chunks += len(texts)

    async def _wait(self, document: Document, error: TollkeeperError, wait_s: int | None, *, can_pass: bool) -> None:
        """Go on later if that may help, else fail."""
        now_ms = self._clock.now_ms()
        if not can_pass:
            await self._fail(document, error)
        elif now_ms >= document.queued_ms + LIFETIME_MS:
            await self._fail(document, DocumentExpired(f"{DocumentExpired.sentence} The last reason: {error.code}."))
        else:
            async with self._database.session() as session:
                available_ms = now_ms + min(max(wait_s or 0, 1), MAX_WAIT_S) * 1000
                await repository.change(session, document, available_ms, error=error.code)

    async def _fail(self, document: Document, error: TollkeeperError) -> None:
        values: dict[str, object] = {"status": DocumentStatus.FAILED.value, "content": None, "api_key": None}
        values |= {"error": error.code, "reason": error.detail[:200], "completed_ms": self._clock.now_ms()}
        try:
            await self._change(document, **values)
        except (ClaimLost, DatabaseUnavailable):
            log.warning("documents.failure_not_stored", code=error.code)

    async def _change(self, document: Document, **values: object) -> None:
        async with self._database.session() as session:
            await self._hold(session, document, **values)

    async def _hold(self, session: AsyncSession, document: Document, **values: object) -> None:
        """Renew the claim, with further changes of the row. Raises ClaimLost."""
        if not await repository.change(session, document, self._clock.now_ms() + CLAIM_MS, **values):
            raise ClaimLost

    async def _leave(self, document: Document) -> None:
        """This process stops: another one may go on at once."""
        try:
            async with self._database.session() as session:
                await repository.change(session, document, self._clock.now_ms())
        except DatabaseUnavailable:
            log.warning("documents.claim_not_released", reason="the database does not respond")


async def _caller_of(session: AsyncSession, document: Document) -> Principal:
    """Who pays: the user who has uploaded the document, with the API key, if one was used and it pays. Raises
    Unauthenticated.
    """
    user = await session.get(User, document.user_id)
    key = await session.get(ApiKey, document.api_key) if document.api_key is not None else None
    if user is None or user.disabled_at is not None or (document.api_key is not None and key is None):
        raise Unauthenticated
    limits = limits_of(key) if key is not None else NO_LIMITS
    caller = document.user_id, document.tenant_id, Role(user.role), user.token_version, document.api_key
    return Principal(*caller, limits=limits, tags=decode_tags(key.tags) if key is not None and key.tags else None)
