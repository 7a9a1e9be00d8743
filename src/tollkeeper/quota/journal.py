"""Group commit: one task per process owns every write of the ledger.

It takes whatever operations wait, runs them in one transaction, and answers each caller after the commit. A lone call
pays one commit; under load one commit serves hundreds.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import structlog

from tollkeeper.errors import LedgerUnavailable, TollkeeperError
from tollkeeper.quota.operations import Answer, Operation, Release, Reserve
from tollkeeper.quota.store import Needs, Page, Store, StoreFailed
from tollkeeper.quota.verbs import decide

MOST_IN_A_BATCH = 512
OUTAGE_PAUSE_S = 0.1
POISON_PAUSE_S = 1.0

log = structlog.get_logger("tollkeeper.ledger")


class _Waiting:
    """An operation in the queue, with the future its caller waits on."""

    __slots__ = ("again", "future", "operation")

    def __init__(self, operation: Operation, future: asyncio.Future[Any]) -> None:
        self.operation = operation
        self.future = future
        self.again = False

    @property
    def abandoned(self) -> bool:
        """Its caller went away, and it need not land."""
        return self.future.cancelled() and not self.operation.must_land


class Journal:
    """The queue in front of a store. Reserves can be refused and withdrawn; everything else runs until it lands."""

    def __init__(self, store: Store, *, queue_limit: int) -> None:
        self._store = store
        self._queue_limit = queue_limit
        self._queue: deque[_Waiting] = deque()
        self._asleep = 0
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self.failing = False
        """True from a batch that the database did not take until one that it did."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ledger-journal")

    async def drain(self, seconds: float) -> bool:
        """Wait until nothing is queued. Returns False when `seconds` were not enough."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def submit(self, operation: Operation) -> asyncio.Future[Any]:
        """Queue an operation; the future answers after its commit, or raises the refusal.

        Cancelling the future withdraws what need not land; a reserve that was committed by then is released.
        Raises LedgerUnavailable when a reserve finds the queue full.
        """
        if isinstance(operation, Reserve) and len(self._queue) >= self._queue_limit:
            raise LedgerUnavailable("The ledger's queue is full.")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(operation, future))
        self._idle.clear()
        self._work.set()
        return future

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            await asyncio.sleep(0)  # whoever became ready in the same turn of the loop joins this batch
            batch = self._take()
            if batch:
                await self._commit(batch)
            if not self._queue:
                self._work.clear()
                if not self._asleep:
                    self._idle.set()

    def _take(self) -> list[_Waiting]:
        """The next batch, in the order of turns. A withdrawn reserve that may be committed becomes its release."""
        batch: list[_Waiting] = []
        while self._queue and len(batch) < MOST_IN_A_BATCH:
            waiting = self._queue.popleft()
            if not waiting.abandoned:
                batch.append(waiting)
            elif waiting.again and isinstance(waiting.operation, Reserve):
                batch.append(self._undo(waiting.operation))
        batch.sort(key=lambda waiting: waiting.operation.turn)
        return batch

    def _undo(self, operation: Reserve) -> _Waiting:
        future = asyncio.get_running_loop().create_future()
        return _Waiting(Release(operation.charge_id, error="caller_gone"), future)

    async def _commit(self, batch: list[_Waiting]) -> None:
        """Run a batch; on an outage put it back, on any other failure halve it until the culprit stands alone."""
        try:
            answers = await self._attempt(batch)
        except StoreFailed as failure:
            self._put_back(batch, failure)
            await asyncio.sleep(OUTAGE_PAUSE_S)
        except Exception as failure:
            if len(batch) == 1:
                self._isolate(batch[0], failure)
                return
            middle = len(batch) // 2
            await self._commit(batch[:middle])
            await self._commit(batch[middle:])
        else:
            if self.failing:
                log.info("ledger.recovered")
                self.failing = False
            for waiting, answer in zip(batch, answers, strict=True):
                self._answer(waiting, answer)

    async def _attempt(self, batch: Sequence[_Waiting]) -> list[Answer | TollkeeperError]:
        needs = Needs()
        for waiting in batch:
            waiting.operation.declare(needs, again=waiting.again)
        operations = [waiting.operation for waiting in batch]
        answers: list[Answer | TollkeeperError] = []

        def work(page: Page) -> None:
            answers[:] = decide(page, operations)

        await self._store.run(needs, work)
        return answers

    def _answer(self, waiting: _Waiting, answer: Answer | TollkeeperError) -> None:
        if waiting.abandoned:
            if not isinstance(answer, TollkeeperError) and isinstance(waiting.operation, Reserve):
                self.submit(Release(waiting.operation.charge_id, error="caller_gone"))
        elif waiting.future.done():
            return
        elif isinstance(answer, TollkeeperError):
            waiting.future.set_exception(answer)
        else:
            waiting.future.set_result(answer)

    def _put_back(self, batch: list[_Waiting], failure: StoreFailed) -> None:
        if not self.failing:
            log.warning("ledger.unavailable", reason=failure.reason)
            self.failing = True
        for waiting in batch:
            waiting.again = waiting.again or failure.maybe_committed
        self._queue.extendleft(reversed(batch))

    def _isolate(self, waiting: _Waiting, failure: Exception) -> None:
        """The culprit of a failing batch is refused, or, if it must land, comes back later, out of the others' way."""
        refusal = failure if isinstance(failure, TollkeeperError) else LedgerUnavailable()
        if refusal is not failure:
            log.error("ledger.operation_failed", operation=type(waiting.operation).__name__, exc_info=failure)
        if waiting.operation.must_land:
            self._asleep += 1
            asyncio.get_running_loop().call_later(POISON_PAUSE_S, self._requeue, waiting)
            return
        if isinstance(waiting.operation, Reserve):
            self.submit(Release(waiting.operation.charge_id, error="caller_gone"))
        if not waiting.future.done():
            waiting.future.set_exception(refusal)

    def _requeue(self, waiting: _Waiting) -> None:
        self._asleep -= 1
        self._queue.append(waiting)
        self._idle.clear()
        self._work.set()
