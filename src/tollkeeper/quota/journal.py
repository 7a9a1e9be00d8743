"""Group commit: one task per process runs every write of the ledger.

The task takes all waiting operations, runs them in one transaction, and resolves each caller's future after the commit.
A single call costs one commit; under load one commit serves hundreds of calls.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any

import structlog

from tollkeeper.errors import LedgerBusy, LedgerUnavailable, TollkeeperError
from tollkeeper.quota.batch import CommittedBatch, run_batch
from tollkeeper.quota.operation_queue import OperationQueue
from tollkeeper.quota.outage import Outage, OutageNote
from tollkeeper.quota.queued_operation import MAX_LOCKED_S, KeepUnbooked, QueuedOperation
from tollkeeper.quota.rules.operations import Operation, Reserve, Result, Undoable
from tollkeeper.quota.stores.base import RowsLocked, Store, StoreFailed, StoreLost

BATCH_PAUSE_S = 0.004
"""The pause after a batch of several operations. The next batch grows, and other processes get the database."""
OUTAGE_PAUSE_S = 0.1
"""The pause before a batch is retried that the database did not take."""
PROBE_INTERVAL_S = 0.5
"""How often the database is probed after an outage that left no operation to retry."""
POISON_PAUSE_S = 1.0
"""The pause before an operation is retried that failed although the database is up."""
DEADLINE_CHECK_S = 0.1
"""How often the deadlines of waiting callers are checked."""
STALL_CHECKS = 10
"""If a check is late by so many intervals, this process was stalled, which is no outage of the database."""

log = structlog.get_logger("tollkeeper.ledger")


class Journal:
    """The queue of operations in front of a store.

    Reserves can be refused and withdrawn. An operation that `must_commit` is retried until it commits. `on_batch` is
    called after each commit, with the number of operations and the seconds of the transaction.
    """

    def __init__(
        self, store: Store, *, queue_limit: int, on_batch: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        self._store = store
        self._queue_limit = queue_limit
        self._on_batch = on_batch
        self._queue = OperationQueue()
        self._running: list[QueuedOperation] = []
        self._delayed: list[QueuedOperation] = []
        self._is_checking = False
        self._checked_at = 0.0
        self._committed_at = 0.0
        self._outage = Outage(store)
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._keep_unbooked: KeepUnbooked | None = None

    @property
    def queued(self) -> int:
        """How many operations wait for a batch."""
        return len(self._queue)

    @property
    def failing(self) -> bool:
        """True from the first batch that the database did not take, or not in time, until a write that it did."""
        return self._outage.is_on

    @property
    def outage(self) -> OutageNote | None:
        """Why the database does not take batches, and since when; None while it does."""
        return self._outage.note

    def start(self) -> None:
        """Start the task that runs the batches."""
        self._task = asyncio.create_task(self._run(), name="ledger-journal")

    async def drain(self, seconds: float) -> bool:
        """Wait until nothing is queued. Returns False if that took longer than `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._idle.wait()
        return False

    async def stop(self, keep_unbooked: KeepUnbooked = lambda _: None) -> None:
        """Cancel the task. `keep_unbooked` receives the ends of charges that are queued, and later those of calls that
        end after the stop. All other queued operations are lost. No caller waits any longer.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._keep_unbooked = keep_unbooked
        self._keep(list(dict.fromkeys((*self._running, *self._queue, *self._delayed))))

    def _keep(self, unbooked: Sequence[QueuedOperation]) -> None:
        closings = [closing for queued in unbooked if (closing := queued.closing) is not None]
        if self._keep_unbooked is not None and closings:
            self._keep_unbooked(closings)
        for queued in unbooked:
            queued.give_up(LedgerUnavailable())

    def submit(
        self, operation: Operation, *, wait_s: float = math.inf, on_commit: Callable[[], object] | None = None
    ) -> asyncio.Future[Any]:
        """Queue an operation. The future has its result after the commit, or its refusal.

        After `wait_s` seconds the future is resolved early: with LedgerUnavailable if the operation can be withdrawn,
        else with None, while the operation goes on. Cancelling the future withdraws the operation, too; a reserve that
        is committed by then is released. `on_commit` is called at the commit in any case.
        Raises LedgerUnavailable if the operation is a reserve and the queue is full.
        """
        if len(self._queue) >= self._queue_limit and isinstance(operation, Reserve):
            raise LedgerUnavailable("The ledger's queue is full.")
        loop = asyncio.get_running_loop()
        queued = QueuedOperation(operation, loop.create_future(), loop.time(), wait_s, on_commit)
        if self._keep_unbooked is not None:
            self._keep([queued])
            return queued.future
        self._enqueue(queued)
        if not self._is_checking:
            self._is_checking = True
            self._schedule_check(loop)
        return queued.future

    async def execute(self, operation: Operation, wait_s: float, on_commit: Callable[[], object] | None = None) -> Any:
        """Submit an operation that can be withdrawn, and return its result. Raises what `submit` raises.

        Cancellation withdraws the operation. One whose result is there, but not yet returned, is undone if it can be.
        """
        future = self.submit(operation, wait_s=wait_s, on_commit=on_commit)
        try:
            return await future
        except asyncio.CancelledError:
            if isinstance(operation, Undoable) and not future.cancelled() and future.exception() is None:
                self.submit(operation.undo())
            raise

    def _enqueue(self, queued: QueuedOperation) -> None:
        self._queue.append(queued)
        self._idle.clear()
        self._work.set()

    def _check_deadlines(self) -> None:
        """Resolve the futures whose deadline has passed. Checks continue as long as operations are queued.

        A wait in a long queue is no outage. A wait in which nothing was committed is one, even before the database
        reports an error.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        was_stalled = now - self._checked_at > STALL_CHECKS * DEADLINE_CHECK_S
        for queued in itertools.chain(self._queue, self._running, self._delayed):
            if now >= queued.deadline and not queued.future.done():
                no_progress = self._committed_at <= (queued.since + now) / 2
                no_progress = no_progress and not queued.locked and queued not in self._delayed
                if no_progress and not was_stalled:
                    self._outage.note_delay()
                queued.give_up(LedgerBusy() if queued.locked else LedgerUnavailable())
        self._is_checking = self._task is not None and not self._idle.is_set()
        if self._is_checking:
            self._schedule_check(loop)

    def _schedule_check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule the next check in an empty context, so that what it logs is not attributed to one call."""
        self._checked_at = loop.time()
        loop.call_later(DEADLINE_CHECK_S, self._check_deadlines, context=Context())

    async def _run(self) -> None:
        while True:
            await self._wait_for_work()
            await asyncio.sleep(0)  # callers that are ready in the same iteration of the event loop join this batch
            self._running = self._queue.next_batch()
            if self._running:
                await self._commit(self._running)
                if len(self._running) > 1:
                    await asyncio.sleep(BATCH_PAUSE_S)
                self._running = []
            if not self._queue:
                self._work.clear()
                if not self._delayed:
                    self._idle.set()

    async def _wait_for_work(self) -> None:
        """Wait for an operation. After an outage, probe the database meanwhile, to notice when it is back."""
        while self._outage.is_on and not self._work.is_set():
            await asyncio.sleep(PROBE_INTERVAL_S)
            await self._outage.probe()
        await self._work.wait()

    async def _commit(self, batch: list[QueuedOperation]) -> None:
        """Run a batch. Requeue it after an outage; after any other failure, halve it until the cause stands alone."""
        try:
            committed = await self._run_transaction(batch)
        except StoreFailed as failure:
            self._put_back(batch, failure)
            await asyncio.sleep(OUTAGE_PAUSE_S)
        except RowsLocked:
            self._separate(batch)
        except Exception as failure:
            if middle := len(batch) // 2:
                await self._commit(batch[:middle])
                await self._commit(batch[middle:])
            else:
                self._handle_failure(batch[0], failure)
        else:
            self._committed_at = asyncio.get_running_loop().time()
            if committed.has_written:
                self._outage.end()
            for queued, result in committed.results:
                self._queue.note_result(queued, self._committed_at, blocked=False)
                self._resolve(queued, result)
            if self._outage.is_on:
                await self._outage.probe()  # the batch wrote nothing, which a full disk allows

    async def _run_transaction(self, batch: Sequence[QueuedOperation]) -> CommittedBatch:
        """Run the operations, and delay those that need a locked row."""
        started_at = time.perf_counter()
        committed = await run_batch(self._store, batch)
        self._on_batch(len(committed.results), time.perf_counter() - started_at)
        for queued in committed.locked:
            queued.suspect_tries = 0  # the row is known
            self._delay_locked(queued)
        return committed

    def _resolve(self, queued: QueuedOperation, result: Result | TollkeeperError) -> None:
        if queued.on_commit is not None:
            queued.on_commit()
        if queued.is_withdrawn:
            if not isinstance(result, TollkeeperError) and isinstance(queued.operation, Undoable):
                self.submit(queued.operation.undo())
        elif queued.future.done():
            return
        elif isinstance(result, TollkeeperError):
            queued.future.set_exception(result)
        else:
            queued.future.set_result(result)

    def _put_back(self, batch: list[QueuedOperation], failure: StoreFailed) -> None:
        self._outage.note_failure(failure.reason)
        for queued in batch:
            queued.retried = queued.retried or failure.maybe_committed
            if isinstance(failure, StoreLost) and not queued.operation.must_commit and not queued.future.done():
                queued.future.set_exception(LedgerUnavailable())  # to wait would not help
        self._queue.put_back(batch)

    def _separate(self, batch: list[QueuedOperation]) -> None:
        """After a batch that did not get its locks: run each operation alone, so that only the blocked ones wait."""
        for queued in batch:
            queued.suspect_tries += 1
        if len(batch) == 1:
            self._delay_locked(batch[0])
        else:
            self._queue.extend(batch)

    def _delay_locked(self, queued: QueuedOperation) -> None:
        """Retry an operation later, apart from the others; refuse it after MAX_LOCKED_S, unless it must commit."""
        if not queued.locked:
            queued.locked = True
            log.warning("ledger.row_locked", operation=type(queued.operation).__name__)
        loop = asyncio.get_running_loop()
        self._queue.note_result(queued, loop.time(), blocked=True)
        if loop.time() - queued.since >= MAX_LOCKED_S and not queued.operation.must_commit:
            if not queued.future.done():
                queued.future.set_exception(LedgerBusy())
            if (release := queued.closing) is not None:
                self.submit(release)
            return
        self._delayed.append(queued)
        loop.call_later(queued.locked_pause_s, self._requeue, queued)

    def _handle_failure(self, queued: QueuedOperation, failure: Exception) -> None:
        """Refuse an operation that made its batch fail. If it must commit, retry it later, apart from the others."""
        refusal = failure if isinstance(failure, TollkeeperError) else LedgerUnavailable()
        if refusal is not failure:
            log.error("ledger.operation_failed", operation=type(queued.operation).__name__, exc_info=failure)
        if queued.operation.must_commit:
            self._delayed.append(queued)
            asyncio.get_running_loop().call_later(POISON_PAUSE_S, self._requeue, queued)
            return
        if isinstance(queued.operation, Reserve):
            self.submit(queued.operation.undo())
        queued.give_up(refusal)

    def _requeue(self, queued: QueuedOperation) -> None:
        self._delayed.remove(queued)
        self._enqueue(queued)
