"""A real store with scripted failures."""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum

from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.stores.base import Store, StoreFailed


class Fault(Enum):
    """How one batch fails."""

    REFUSED = "the database did not take it"
    NEVER_COMMITTED = "COMMIT was sent, and did not happen"
    ANSWER_LOST = "COMMIT happened, and its answer was lost"


class Poisoned(Exception):
    """An error that no database driver raises."""


class FaultyStore:
    """Counts batches; `faults` are taken one per batch, `down` fails all, `full` fails those that write, `poison` fails
    those that need a charge.
    """

    def __init__(self, genuine: Store) -> None:
        self._store = genuine
        self.runs = 0
        self.faults: deque[Fault] = deque()
        self.down = False
        self.full = False
        self.poison: set[str] = set()
        self.before_batch = asyncio.Event()
        """While it is cleared, batches wait before they begin."""
        self.before_batch.set()
        self.after_commit = asyncio.Event()
        """While it is cleared, batches wait after their commit."""
        self.after_commit.set()
        self.started = asyncio.Event()
        self.committed = asyncio.Event()
        self.on_commit: Callable[[], object] = lambda: None

    @property
    def lost_reason(self) -> str | None:
        return self._store.lost_reason

    @property
    def refuses_calls(self) -> bool:
        return self._store.refuses_calls

    async def run(self, read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        self.runs += 1
        self.started.set()
        await self.before_batch.wait()
        fault = self.faults.popleft() if self.faults else None
        if self.down or fault is Fault.REFUSED:
            raise StoreFailed("out of order", maybe_committed=False)
        if fault is Fault.NEVER_COMMITTED:
            raise StoreFailed("out of order", maybe_committed=True)
        if self.poison & read_set.charges.keys() or any(str(user) in self.poison for user in read_set.callers):
            raise Poisoned
        await self._store.run(read_set, self._without_space(decide) if self.full else decide)
        self.committed.set()
        await self.after_commit.wait()
        self.on_commit()
        if fault is Fault.ANSWER_LOST:
            raise StoreFailed("out of order", maybe_committed=True)

    @staticmethod
    def _without_space(decide: Callable[[Page], None]) -> Callable[[Page], None]:
        def decide_and_fail(page: Page) -> None:
            decide(page)
            if page.has_changes:
                raise StoreFailed("the disk is full", maybe_committed=False)

        return decide_and_fail

    async def find_lapsed(self, limit: int) -> list[tuple[str, int]]:
        if self.down:
            raise StoreFailed("out of order", maybe_committed=False)
        return await self._store.find_lapsed(limit)

    async def delete_old_keys(self, limit: int) -> int:
        if self.down:
            raise StoreFailed("out of order", maybe_committed=False)
        return await self._store.delete_old_keys(limit)

    async def delete_free_charges(self, min_age_ms: int, limit: int) -> int:
        if self.down:
            raise StoreFailed("out of order", maybe_committed=False)
        return await self._store.delete_free_charges(min_age_ms, limit)

    async def probe(self) -> None:
        if self.down or self.full:
            raise StoreFailed("out of order", maybe_committed=False)
        await self._store.probe()

    async def close(self) -> None:
        await self._store.close()
