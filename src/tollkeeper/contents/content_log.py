"""Stores the contents of calls behind their backs: calls put them into a bounded queue, and a task writes them.

What the queue cannot take is dropped and counted. Where no tenant has turned it on, a call costs one look-up in an
empty set.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import structlog
from sqlalchemy import text
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.clock import Clock
from tollkeeper.contents.cipher import seal
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.identity.models import User
from tollkeeper.principal import Principal
from tollkeeper.retrieval.models import UseKind
from tollkeeper.retrieval.uses import note_uses
from tollkeeper.worker_thread import run_by_size

INTERVAL_S = 0.2
"""How often the queue is looked at."""
OUTAGE_PAUSE_S = 1.0
"""The pause before a batch is written again that the database did not take."""
MAX_BATCH = 50
MAX_QUEUED = 2_000
MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""The size of the requests whose contents wait: each is in memory until then."""
MAX_STOP_S = 4.0
"""How long a stop waits until the queue is written. What is left then is dropped."""

_INSERT = text(
    "INSERT INTO call_contents"
    " (tenant_id, charge_id, user_id, surface, provider, model, sealed_content, created_ms)"
    " VALUES (:tenant_id, :charge_id, :user_id, :surface, :provider, :model, :sealed_content, :created_ms)"
    " ON CONFLICT DO NOTHING"
)

log = structlog.get_logger("tollkeeper.contents")


class Content(NamedTuple):
    """The content of a call. `read` makes the document to be stored; `size` is that of the request, in bytes."""

    owner: Principal
    charge_id: str
    surface: str
    provider: str
    model: str
    size: int
    read: Callable[[], bytes]
    documents: frozenset[str] = frozenset()
    """Whose text it has."""


class ContentLog:
    """The queue and its task. `dropped` counts the calls whose contents were dropped."""

    def __init__(self, database: Database, keys: DataKeys, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock
        self._tenants: frozenset[int] = frozenset()
        self._queue: deque[Content] = deque()
        self._queued_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self.dropped = 0

    def configure(self, tenants: Collection[int]) -> None:
        """Store the contents of the calls of these tenants from now on, and of no others."""
        self._tenants = frozenset(tenants)

    def is_on(self, tenant_id: int) -> bool:
        """Whether the contents of this tenant's calls are stored."""
        return tenant_id in self._tenants

    def put(self, content: Content) -> None:
        """Queue a content, or drop it if too much is queued. Never blocks."""
        if len(self._queue) >= MAX_QUEUED or self._queued_bytes + content.size > MAX_QUEUED_BYTES:
            self._drop(1)
            return
        self._queue.append(content)
        self._queued_bytes += content.size

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name="contents")

    async def stop(self) -> None:
        """Write what is queued, for at most MAX_STOP_S."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(TimeoutError, DatabaseUnavailable):
            async with asyncio.timeout(MAX_STOP_S):
                await self.write_queued()
        if self._queue:
            self._drop(len(self._queue))

    async def write_queued(self) -> None:
        """Write all that is queued. A content leaves the queue when it is stored. Raises DatabaseUnavailable."""
        while self._queue:
            batch = list(islice(self._queue, MAX_BATCH))
            await self._write(batch)
            for content in batch:
                self._queue.popleft()
                self._queued_bytes -= content.size

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(OUTAGE_PAUSE_S if self._failing else INTERVAL_S)
            try:
                await self.write_queued()
                self._failing = False
            except DatabaseUnavailable:
                if not self._failing:
                    log.warning("contents.not_stored", reason="the database does not respond")
                self._failing = True
            except Exception:
                log.exception("contents.not_stored", calls=min(len(self._queue), MAX_BATCH))
                for _ in range(min(len(self._queue), MAX_BATCH)):
                    self._queued_bytes -= self._queue.popleft().size
                    self.dropped += 1

    async def _write(self, batch: Sequence[Content]) -> None:
        """Store a batch in one transaction, except what belongs to users who were erased meanwhile, or has text of
        documents that were deleted.
        """
        rows = [(content, row) for content in batch if (row := await self._row(content)) is not None]
        if not rows:
            return
        owners = {content.owner.user_id for content, _ in rows}
        query = select(User.id).where(col(User.id).in_(owners), col(User.erased_at).is_(None))
        async with self._database.session() as session:
            present = set((await session.exec(query.with_for_update(read=True))).all())
            kept = [
                row
                for content, row in rows
                if content.owner.user_id in present and await self._may_store(session, content)
            ]
            if kept:
                await (await session.connection()).execute(_INSERT, kept)

    async def _may_store(self, session: AsyncSession, content: Content) -> bool:
        """Note that text of documents is about to be stored, if they are still there."""
        if not content.documents:
            return True
        places = ((UseKind.CONTENT, content.charge_id),)
        noted = await note_uses(session, content.owner, content.documents, places, self._clock.now_ms())
        return noted == content.documents

    async def _row(self, content: Content) -> dict[str, Any] | None:
        owner = content.owner
        try:
            sealed = await run_by_size(content.size, self._seal, content)
        except Exception as error:  # its text may quote the content
            log.error("contents.not_read", charge_id=content.charge_id, reason=type(error).__name__)
            self.dropped += 1
            return None
        return {
            "tenant_id": owner.tenant_id,
            "charge_id": content.charge_id,
            "user_id": owner.user_id,
            "surface": content.surface,
            "provider": content.provider,
            "model": content.model,
            "sealed_content": sealed,
            "created_ms": self._clock.now_ms(),
        }

    def _seal(self, content: Content) -> bytes:
        return seal(self._keys, content.owner.tenant_id, content.charge_id, content.read())

    def _drop(self, calls: int) -> None:
        if not self.dropped:
            log.error("contents.dropped", reason="too many are queued; the metric counts further ones")
        self.dropped += calls
