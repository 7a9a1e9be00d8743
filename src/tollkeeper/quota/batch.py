"""One transaction of the journal: which operations of a batch it decides, and with what result."""

from collections.abc import Sequence
from typing import NamedTuple

from tollkeeper.errors import TollkeeperError
from tollkeeper.quota.queued_operation import QueuedOperation
from tollkeeper.quota.rules.decide import decide
from tollkeeper.quota.rules.operations import Result
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.stores.base import Store


class CommittedBatch(NamedTuple):
    """What a transaction has committed. `locked` are the operations that need a row which another session keeps locked.

    Operations that were withdrawn are in neither list. `has_written`: something was written.
    """

    results: list[tuple[QueuedOperation, Result | TollkeeperError]]
    locked: list[QueuedOperation]
    has_written: bool


async def run_batch(store: Store, batch: Sequence[QueuedOperation]) -> CommittedBatch:
    """Run the operations in one transaction. Raises StoreFailed, RowsLocked, and what an operation raises."""
    read_set = ReadSet(is_suspect=batch[0].is_suspect)
    for queued in batch:
        queued.operation.declare_reads(read_set, retried=queued.retried)
    decided: list[QueuedOperation] = []
    locked: list[QueuedOperation] = []
    results: list[Result | TollkeeperError] = []
    has_written = False

    def decide_batch(page: Page) -> None:
        nonlocal has_written
        decided[:] = [queued for queued in batch if not queued.can_be_dropped]
        if page.locked is not None:
            locked[:] = [queued for queued in decided if queued.needs(page.locked)]
            decided[:] = [queued for queued in decided if not queued.needs(page.locked)]
        results[:] = decide(page, [queued.operation for queued in decided])
        has_written = page.has_changes

    await store.run(read_set, decide_batch)
    return CommittedBatch(list(zip(decided, results, strict=True)), locked, has_written)
