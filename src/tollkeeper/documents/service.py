"""Receives documents, and deletes them. `indexing.py` processes them."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy.exc import IntegrityError

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.documents import repository
from tollkeeper.documents.copies import Copies
from tollkeeper.documents.deletion import delete_parts
from tollkeeper.documents.parsing.formats import DocumentFormat
from tollkeeper.errors import DocumentQuotaExceeded, DocumentsOff, Forbidden, NotFound
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.time_sorted_ids import new_id
from tollkeeper.retrieval.contents import CONTENT, NAME, DocumentContents
from tollkeeper.retrieval.models import SHARED, Document, DocumentStatus
from tollkeeper.retrieval.vectors import VectorMemory
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.tenant_scope import TenantScope

DOCUMENT_PREFIX = "doc"
MAX_DOCUMENT_BYTES = 20 * 1024 * 1024


class DocumentLimits(NamedTuple):
    """How much the documents of one tenant may be: in bytes as uploaded, and how many."""

    tenant_bytes: int
    tenant_documents: int


class Upload(NamedTuple):
    """A document as it was received. `is_shared`: all users of the tenant may read it."""

    name: str
    kind: DocumentFormat
    content: bytes
    is_shared: bool
    keyed_request: KeyedRequest | None = None


class UploadedDocument(NamedTuple):
    """A document, and whether it was uploaded before, with the same idempotency key."""

    document: Document
    is_repeated: bool


class Documents:
    """The documents of all users. `require_model` raises if the caller may not pay for vectors; it is None where
    documents are off.
    """

    def __init__(
        self,
        database: Database,
        contents: DocumentContents,
        memory: VectorMemory,
        clock: Clock,
        wake: asyncio.Event,
        limits: DocumentLimits,
        copies: Copies,
        *,
        require_model: Callable[[Principal], None] | None,
    ) -> None:
        self._database = database
        self.contents = contents
        self._memory = memory
        self._clock = clock
        self._wake = wake
        self._limits = limits
        self._require_model = require_model
        self._copies = copies

    def require_on(self, caller: Principal) -> None:
        """Raises DocumentsOff; Forbidden if the caller's key does not allow the model of the vectors; ModelNotFound."""
        if self._require_model is None:
            raise DocumentsOff
        self._require_model(caller)

    async def upload(self, caller: Principal, upload: Upload) -> UploadedDocument:
        """Store a document, to be processed; or return the one of the same idempotency key.

        Raises DocumentQuotaExceeded, IdempotencyMismatch, DatabaseUnavailable.
        """
        keyed = upload.keyed_request
        if keyed is not None and (earlier := await self._find_earlier(caller, keyed)) is not None:
            return UploadedDocument(earlier, is_repeated=True)
        document = await asyncio.to_thread(self._make, caller, upload)  # to encrypt 20 MiB takes 50 ms
        try:
            async with self._database.session(TenantScope(caller.tenant_id)) as session:
                count, size = await repository.lock_usage(session, caller.tenant_id)
                self._require_room(count + 1, size + document.size)
                session.add(document)
        except IntegrityError:
            if keyed is None or (earlier := await self._find_earlier(caller, keyed)) is None:
                raise
            return UploadedDocument(earlier, is_repeated=True)
        self._wake.set()
        return UploadedDocument(document, is_repeated=False)

    async def delete(self, caller: Principal, document_id: str) -> None:
        """Delete a document with its chunks and vectors, and what was kept elsewhere of its text.

        Who has uploaded it may do so, and an administrator of the tenant. If a call is in flight that may still store
        such text, the processing of documents finishes the deletion. Raises NotFound, Forbidden, DatabaseUnavailable.
        """
        scope = TenantScope(caller.tenant_id)
        async with self._database.session(scope) as session:
            document = await repository.find(session, caller, document_id)
            if document is None:
                raise NotFound
            if caller.user_id != document.user_id and caller.role.rank < Role.TENANT_ADMIN.rank:
                raise Forbidden("Who has uploaded a document can delete it, and an administrator of the tenant.")
            await repository.begin_deletion(session, document, self._clock.now_ms())
        self._memory.forget(document.tenant_id, document.id)
        await delete_parts(self._database, self._copies, document)

    def name_of(self, document: Document) -> str:
        """The name of a document, decrypted."""
        return self.contents.opened(document.name, document.tenant_id, document.id, NAME).decode()

    def _require_room(self, count: int, size: int) -> None:
        limits = self._limits
        if count > limits.tenant_documents:
            raise DocumentQuotaExceeded(f"A tenant can have {limits.tenant_documents:,} documents. Delete some.")
        if size > limits.tenant_bytes:
            raise DocumentQuotaExceeded(
                f"The documents of this tenant would have {size:,} bytes, and may have {limits.tenant_bytes:,}."
                " Delete some, or ask the operator for more room."
            )

    async def _find_earlier(self, caller: Principal, keyed: KeyedRequest) -> Document | None:
        """The document that was uploaded with this key in the last 24 hours."""
        async with self._database.session(TenantScope(caller.tenant_id)) as session:
            document = await repository.find_by_key(session, caller, keyed.key)
            if document is None:
                return None
            if not keyed.repeats(document.created_ms, document.fingerprint, self._clock.now_ms()):
                await repository.forget_key(session, document)
                return None
        return document

    def _make(self, caller: Principal, upload: Upload) -> Document:
        now_ms, keyed, document_id = self._clock.now_ms(), upload.keyed_request, new_id(DOCUMENT_PREFIX)
        seal = self.contents.seal
        return Document(
            tenant_id=caller.tenant_id,
            id=document_id,
            user_id=caller.user_id,
            owner_id=SHARED if upload.is_shared else caller.user_id,
            name=seal(upload.name.encode(), caller.tenant_id, document_id, NAME),
            media_type=upload.kind.value,
            size=len(upload.content),
            status=DocumentStatus.PENDING.value,
            content=seal(upload.content, caller.tenant_id, document_id, CONTENT),
            api_key=caller.api_key,
            correlation_id=correlation_id.get(),
            idempotency_key=keyed.key if keyed is not None else None,
            fingerprint=keyed.fingerprint if keyed is not None else None,
            created_ms=now_ms,
            queued_ms=now_ms,
            available_ms=now_ms,
        )
