"""Group commit: one task per process owns every write of the ledger.

It takes whatever operations wait, runs them in one transaction, and answers each caller after the commit. A lone call
pays one commit; under load one commit serves hundreds.
"""

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any

import structlog

from tollkeeper.errors import LedgerUnavailable, TollkeeperError
from tollkeeper.quota.rules.decide import decide
from tollkeeper.quota.rules.operations import Operation, Reserve, Result
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.stores.base import Store, StoreFailed

MAX_BATCH = 512
GATHER_S = 0.004
"""The pause after a batch of several: the next one grows by it, and other processes get in. No lone caller waits."""
OUTAGE_PAUSE_S = 0.1
PROBE_S = 0.5
"""How often the database is tried when an outage has left nothing to do."""
POISON_PAUSE_S = 1.0
WATCH_S = 0.1
"""How often it looks for callers who have waited for long enough."""
LATE = 10
"""So many looks late, it is this process that stood still, and not the database."""

log = structlog.get_logger("tollkeeper.ledger")


class _Waiting:
    """An operation on its way, the future its caller waits on, since when and until when (on the loop's clock)."""

    __slots__ = ("again", "deadline", "future", "landed", "operation", "since")

    def __init__(
        self,
        operation: Operation,
        future: asyncio.Future[Any],
        since: float,
        wait_s: float,
        landed: Callable[[], object] | None = None,
    ) -> None:
        self.operation = operation
        self.future = future
        self.since = since
        self.deadline = since + wait_s
        self.landed = landed
        self.again = False

    @property
    def abandoned(self) -> bool:
        """Its caller went away or waits no longer, and it need not land."""
        return self.future.done() and not self.operation.must_land


class Journal:
    """The queue in front of a store. Reserves can be refused and withdrawn; everything else runs until it lands."""

    def __init__(self, store: Store, *, queue_limit: int) -> None:
        self._store = store
        self._queue_limit = queue_limit
        self._queue: deque[_Waiting] = deque()
        self._running: list[_Waiting] = []
        self._watching = False
        self._watched_at = 0.0
        self._asleep: list[_Waiting] = []
        self._landed_at = 0.0
        self._refused = False
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self.failing = False
        """True from a batch that the database did not take, or not in time, until one that it did."""

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

    def submit(
        self, operation: Operation, *, wait_s: float = math.inf, landed: Callable[[], object] | None = None
    ) -> asyncio.Future[Any]:
        """Queue an operation; the future answers after its commit, or raises the refusal.

        After `wait_s` it gives up waiting: with LedgerUnavailable for what can be withdrawn, with None for what must
        land, which goes on. Cancelling the future withdraws likewise; a reserve that was committed by then is released.
        `landed` is called with the commit, whether or not anyone still waits.
        Raises LedgerUnavailable when a reserve finds the queue full.
        """
        if len(self._queue) >= self._queue_limit and isinstance(operation, Reserve):
            raise LedgerUnavailable("The ledger's queue is full.")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(operation, loop.create_future(), loop.time(), wait_s, landed)
        self._enqueue(waiting)
        if not self._watching:
            self._watching = True
            self._watch_again(loop)
        return waiting.future

    async def request(self, operation: Operation, wait_s: float, landed: Callable[[], object] | None = None) -> Any:
        """Submit an operation that can be withdrawn, and wait for its answer. Raises what `submit` does.

        Cancelled while it waits, it is withdrawn; cancelled when the answer is there but not yet taken, a reserve is
        released.
        """
        future = self.submit(operation, wait_s=wait_s, landed=landed)
        try:
            return await future
        except asyncio.CancelledError:
            if isinstance(operation, Reserve) and not future.cancelled() and future.exception() is None:
                self.submit(operation.undone())
            raise

    def _enqueue(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._idle.clear()
        self._work.set()

    def _watch(self) -> None:
        """Answer those who have waited for long enough; look again as long as anything is under way.

        Waiting in a long queue is no outage. Waiting while nothing landed is one, before the database says so.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = now - self._watched_at > LATE * WATCH_S
        for waiting in itertools.chain(self._queue, self._running, self._asleep):
            if now >= waiting.deadline and not waiting.future.done():
                in_vain = self._landed_at <= (waiting.since + now) / 2 and waiting not in self._asleep
                if in_vain and not late and not self.failing:
                    self.failing = True
                    log.warning("ledger.unavailable", reason="nothing landed in time")
                if waiting.operation.must_land:
                    waiting.future.set_result(None)
                else:
                    waiting.future.set_exception(LedgerUnavailable())
        self._watching = self._task is not None and not self._idle.is_set()
        if self._watching:
            self._watch_again(loop)

    def _watch_again(self, loop: asyncio.AbstractEventLoop) -> None:
        """In nobody's context: what is logged then is of no single call."""
        self._watched_at = loop.time()
        loop.call_later(WATCH_S, self._watch, context=Context())

    async def _run(self) -> None:
        while True:
            await self._something_to_do()
            await asyncio.sleep(0)  # whoever became ready in the same turn of the loop joins this batch
            self._running = self._take()
            if self._running:
                await self._commit(self._running)
                if len(self._running) > 1:
                    await asyncio.sleep(GATHER_S)
                self._running = []
            if not self._queue:
                self._work.clear()
                if not self._asleep:
                    self._idle.set()

    async def _something_to_do(self) -> None:
        """Wait for work. After an outage that left none, try the database now and then: its return must be noticed."""
        while self.failing and not self._work.is_set():
            await asyncio.sleep(PROBE_S)
            with suppress(Exception):
                await self._store.probe()
                self._recovered()
        await self._work.wait()

    def _recovered(self) -> None:
        if self.failing:
            self.failing = self._refused = False
            log.info("ledger.recovered")

    def _take(self) -> list[_Waiting]:
        """The next batch, in the order of turns. A withdrawn reserve that may be committed becomes its release."""
        batch: list[_Waiting] = []
        while self._queue and len(batch) < MAX_BATCH:
            waiting = self._queue.popleft()
            if not waiting.abandoned:
                batch.append(waiting)
            elif waiting.again and isinstance(waiting.operation, Reserve):
                batch.append(self._undo(waiting.operation))
        batch.sort(key=lambda waiting: waiting.operation.turn)
        return batch

    def _undo(self, operation: Reserve) -> _Waiting:
        loop = asyncio.get_running_loop()
        return _Waiting(operation.undone(), loop.create_future(), loop.time(), math.inf)

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
            self._landed_at = asyncio.get_running_loop().time()
            self._recovered()
            for waiting, answer in zip(batch, answers, strict=True):
                self._answer(waiting, answer)

    async def _attempt(self, batch: Sequence[_Waiting]) -> list[Result | TollkeeperError]:
        needs = ReadSet()
        for waiting in batch:
            waiting.operation.declare(needs, again=waiting.again)
        operations = [waiting.operation for waiting in batch]
        answers: list[Result | TollkeeperError] = []

        def work(page: Page) -> None:
            answers[:] = decide(page, operations)

        await self._store.run(needs, work)
        return answers

    def _answer(self, waiting: _Waiting, answer: Result | TollkeeperError) -> None:
        if waiting.landed is not None:
            waiting.landed()
        if waiting.abandoned:
            if not isinstance(answer, TollkeeperError) and isinstance(waiting.operation, Reserve):
                self.submit(waiting.operation.undone())
        elif waiting.future.done():
            return
        elif isinstance(answer, TollkeeperError):
            waiting.future.set_exception(answer)
        else:
            waiting.future.set_result(answer)

    def _put_back(self, batch: list[_Waiting], failure: StoreFailed) -> None:
        self.failing = True
        if not self._refused:
            self._refused = True
            log.warning("ledger.unavailable", reason=failure.reason)
        for waiting in batch:
            waiting.again = waiting.again or failure.maybe_committed
        self._queue.extendleft(reversed(batch))

    def _isolate(self, waiting: _Waiting, failure: Exception) -> None:
        """The culprit of a failing batch is refused, or, if it must land, comes back later, out of the others' way."""
        refusal = failure if isinstance(failure, TollkeeperError) else LedgerUnavailable()
        if refusal is not failure:
            log.error("ledger.operation_failed", operation=type(waiting.operation).__name__, exc_info=failure)
        if waiting.operation.must_land:
            self._asleep.append(waiting)
            asyncio.get_running_loop().call_later(POISON_PAUSE_S, self._requeue, waiting)
            return
        if isinstance(waiting.operation, Reserve):
            self.submit(waiting.operation.undone())
        if not waiting.future.done():
            waiting.future.set_exception(refusal)

    def _requeue(self, waiting: _Waiting) -> None:
        self._asleep.remove(waiting)
        self._enqueue(waiting)
