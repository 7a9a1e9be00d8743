"""Submits batches, and cancels them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.batches import repository
from tollkeeper.batches.contents import BatchContents
from tollkeeper.batches.models import Batch, BatchStatus
from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import BatchNotEnded, FileInUse, NotFound, TooManyBatches
from tollkeeper.files.models import StoredFile
from tollkeeper.files.store import Files
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.time_sorted_ids import new_id
from tollkeeper.tags import NO_TAGS, encode_tags
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.trace_context import TraceContext
from tollkeeper.tenant_scope import TenantScope

MAX_OPEN_BATCHES = 100
"""Of one user."""
WINDOW_MS = 86_400_000
"""How long a batch may take: the only completion window of OpenAI's and of Anthropic's batches."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A batch to be made of the lines of a file. `total` is their number, if they are known to be valid."""

    id_prefix: str
    kind: str
    input_file: StoredFile
    options: dict[str, Any]
    trace: TraceContext
    total: int | None = None
    keyed_request: KeyedRequest | None = None


class SubmittedBatch(NamedTuple):
    """A batch, and whether it was submitted before, with the same idempotency key."""

    batch: Batch
    is_repeated: bool


class Batches:
    """The batches of all users. `on_change` is called when one waits to be looked at."""

    def __init__(self, database: Database, files: Files, keys: DataKeys, clock: Clock) -> None:
        self._database = database
        self.files = files
        self._clock = clock
        self.contents = BatchContents(keys)
        self.has_work = True
        """Whether a batch of this process waits to be looked at; its runner resets it."""

    async def submit(self, caller: Principal, request: BatchRequest) -> SubmittedBatch:
        """Store a batch, or return the one of the same idempotency key. Its lines begin soon.

        Raises TooManyBatches, IdempotencyMismatch, DatabaseUnavailable.
        """
        batch = self._make(caller, request)
        if (earlier := await self.find_earlier(caller, request.keyed_request)) is not None:
            return SubmittedBatch(earlier, is_repeated=True)
        try:
            async with self._database.session(TenantScope(caller.tenant_id)) as session:
                session.add(batch)
                await session.flush()
                if await repository.count_open(session, caller) > MAX_OPEN_BATCHES:
                    raise TooManyBatches
        except IntegrityError:
            earlier = await self.find_earlier(caller, request.keyed_request)
            if earlier is None:
                raise
            return SubmittedBatch(earlier, is_repeated=True)
        self.has_work = True
        return SubmittedBatch(batch, is_repeated=False)

    async def find_earlier(self, caller: Principal, keyed: KeyedRequest | None) -> Batch | None:
        """The batch that was submitted with this key in the last 24 hours. Raises IdempotencyMismatch."""
        if keyed is None:
            return None
        async with self._database.session(TenantScope(caller.tenant_id)) as session:
            batch = await repository.find_by_key(session, caller, keyed.key)
            if batch is None:
                return None
            if not keyed.repeats(batch.created_ms, batch.fingerprint, self._clock.now_ms()):
                await repository.forget_key(session, batch)
                return None
        return batch

    async def cancel(self, owner: Principal, batch_id: str) -> Batch:
        """Cancel a batch: no further call of it begins, and those that run go on. One that has ended stays as it is.

        Raises NotFound, DatabaseUnavailable.
        """
        scope = TenantScope(owner.tenant_id)
        async with self._database.session(scope) as session:
            batch = await self.require(session, owner, batch_id)
            await repository.request_cancel(session, batch, self._clock.now_ms())
        self.has_work = True
        async with self._database.session(scope) as session:
            return await self.require(session, owner, batch_id)

    async def delete(self, owner: Principal, batch_id: str) -> None:
        """Delete a batch that has ended, with its results. Raises NotFound, BatchNotEnded, DatabaseUnavailable."""
        async with self._database.session(TenantScope(owner.tenant_id)) as session:
            batch = await self.require(session, owner, batch_id)
            if batch.ended_ms is None:
                raise BatchNotEnded
            ids = (batch.input_file_id, batch.output_file_id, batch.error_file_id)
            files = [await session.get(StoredFile, (owner.tenant_id, id_)) for id_ in ids if id_ is not None]
            await repository.remove(session, batch)
        for file in files:
            if file is not None:
                await self.files.delete(file)

    async def delete_file(self, file: StoredFile) -> None:
        """Delete a file that no batch reads any more. Raises FileInUse, DatabaseUnavailable."""
        async with self._database.session(TenantScope(file.tenant_id)) as session:
            if await repository.is_read(session, file):
                raise FileInUse
        await self.files.delete(file)

    async def require(self, session: AsyncSession, owner: Principal, batch_id: str) -> Batch:
        """The user's batch of this id. Raises NotFound."""
        batch = await repository.find(session, owner, batch_id)
        if batch is None:
            raise NotFound
        return batch

    def _make(self, caller: Principal, request: BatchRequest) -> Batch:
        now_ms, keyed = self._clock.now_ms(), request.keyed_request
        is_valid = request.total is not None
        batch = Batch(
            tenant_id=caller.tenant_id,
            id=new_id(request.id_prefix),
            user_id=caller.user_id,
            kind=request.kind,
            status=(BatchStatus.IN_PROGRESS if is_valid else BatchStatus.VALIDATING).value,
            input_file_id=request.input_file.id,
            total=request.total or 0,
            api_key=caller.api_key,
            group_name=caller.group,
            tags=encode_tags(caller.tags or NO_TAGS),
            token_version=caller.token_version,
            correlation_id=correlation_id.get(),
            traceparent=request.trace.header_for(request.trace.span_id),
            idempotency_key=keyed.key if keyed is not None else None,
            fingerprint=keyed.fingerprint if keyed is not None else None,
            options=b"",
            created_ms=now_ms,
            deadline_ms=now_ms + WINDOW_MS,
            available_ms=now_ms,
            started_ms=now_ms if is_valid else None,
        )
        batch.options = self.contents.seal(batch, "options", request.options)
        return batch
