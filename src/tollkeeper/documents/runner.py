"""Works on the documents of all tenants in turn, some at a time in each process; and looks after the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import structlog

from tollkeeper.clock import Clock
from tollkeeper.database.engine import Database
from tollkeeper.documents import repository
from tollkeeper.documents.embedding import Embedder
from tollkeeper.documents.indexing import Indexing
from tollkeeper.errors import DatabaseUnavailable, ModelNotFound
from tollkeeper.retrieval.models import DocumentStatus
from tollkeeper.retrieval.vector_index import IndexFiller
from tollkeeper.telemetry.task_runs import NoteRun, Task, ignore_run, noted

CONCURRENCY = 2
"""Documents that a process works on at a time. Parsing one may take all of a core."""
INTERVAL_S = 1.0
"""How often a process looks for documents that were uploaded to others, by default."""
UPKEEP_INTERVAL_S = 15.0
BATCH = 200

log = structlog.get_logger("tollkeeper.documents")


class DocumentRunner:
    """Runs beside the server. Copies of documents' text are kept elsewhere for at most `copies_ms`. Where there is an
    index of vectors, `filler` adds to it.

    `by_status` counts the documents of the whole installation, as of the last look; `oldest_waiting_s` is since when
    the one waits that has waited longest, in seconds.
    """

    def __init__(
        self,
        database: Database,
        indexing: Indexing,
        embedder: Embedder,
        clock: Clock,
        wake: asyncio.Event,
        *,
        copies_ms: int,
        interval_s: float = INTERVAL_S,
        filler: IndexFiller | None = None,
        is_draining: Callable[[], bool] = lambda: False,
        on_run: NoteRun = ignore_run,
    ) -> None:
        self._database = database
        self._indexing = indexing
        self._embedder = embedder
        self._clock = clock
        self._wake = wake
        self._copies_ms = copies_ms
        self._interval_s = interval_s
        self._filler = filler
        self._is_draining = is_draining
        self._on_run = on_run
        self._tasks: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._last_tenant = 0
        self.by_status: Mapping[str, int] = {status.value: 0 for status in DocumentStatus}
        self.oldest_waiting_s = 0.0

    def wake(self) -> None:
        """Look for documents to work on now."""
        self._wake.set()

    def start(self) -> None:
        self._loops = [
            asyncio.create_task(self._repeat(self._start_some, self._wait_for_work), name="documents-start"),
            asyncio.create_task(
                self._repeat(self._look_after, lambda: asyncio.sleep(UPKEEP_INTERVAL_S)), name="documents-upkeep"
            ),
        ]

    async def stop(self) -> None:
        """Other processes go on with what this one has begun: each step that was done is stored."""
        for task in (*self._loops, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._loops, *self._tasks, return_exceptions=True)

    async def queue_outdated(self) -> None:
        """Have documents embedded again whose vectors are of another model. Raises DatabaseUnavailable."""
        try:
            model = self._embedder.model
        except ModelNotFound:  # removed from the catalog, or switched off: it may come back
            return
        count = BATCH
        while count >= BATCH:
            async with self._database.session() as session:
                count = await repository.queue_outdated(session, model, self._clock.now_ms(), BATCH)
            if count:
                log.info("documents.embedded_again", count=count, model=model)
                self._wake.set()

    async def _start_some(self) -> None:
        while len(self._tasks) < CONCURRENCY and not self._is_draining():
            async with self._database.session() as session:
                document = await repository.claim(session, self._last_tenant, self._clock.now_ms())
            if document is None:
                return
            self._last_tenant = document.tenant_id
            task = asyncio.create_task(self._indexing.run(document), name="document")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def _look_after(self) -> None:
        with noted(self._on_run, Task.DOCUMENTS):
            await self.queue_outdated()
            await self._delete_old_uses()
            await self._fill_index()
            async with self._database.session() as session:
                self.by_status, oldest_ms = await repository.count_by_status(session)
            waited_ms = self._clock.now_ms() - oldest_ms if oldest_ms is not None else 0
            self.oldest_waiting_s = max(0, waited_ms) / 1000

    async def _delete_old_uses(self) -> None:
        count = BATCH
        while count >= BATCH:
            async with self._database.session() as session:
                before_ms = self._clock.now_ms() - self._copies_ms
                count = await repository.delete_old_uses(session, before_ms, BATCH)

    async def _fill_index(self) -> None:
        """Add to the index of vectors what it lacks, if there is one."""
        filled = 1
        while self._filler is not None and filled and not self._is_draining():
            async with self._database.session() as session:
                filled = await self._filler.fill(session)

    async def _wait_for_work(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval_s):
                await self._wake.wait()
        self._wake.clear()

    async def _repeat(self, act: Callable[[], Awaitable[None]], wait: Callable[[], Awaitable[None]]) -> None:
        is_out = False
        while True:
            try:
                await act()
            except DatabaseUnavailable:
                if not is_out:
                    log.warning("documents.waiting", reason="the database does not respond")
                is_out = True
            except Exception:
                log.exception("documents.not_started")
            else:
                is_out = False
            await wait()
