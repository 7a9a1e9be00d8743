"""An operation in the ledger's journal, with the caller that waits for it."""

import asyncio
from collections.abc import Callable
from typing import Any

from tollkeeper.quota.rules.operations import Administer, Closing, Operation, Renew, Reserve
from tollkeeper.quota.rules.page import ReadSet


class QueuedOperation:
    """An operation in the journal, and its caller's future. `since` and `deadline` are on the event loop's clock."""

    __slots__ = ("alone", "deadline", "future", "locked", "on_commit", "operation", "retried", "since")

    def __init__(
        self,
        operation: Operation,
        future: asyncio.Future[Any],
        since: float,
        wait_s: float,
        on_commit: Callable[[], object] | None = None,
    ) -> None:
        self.operation = operation
        self.future = future
        self.since = since
        self.deadline = since + wait_s
        self.on_commit = on_commit
        self.retried = False
        """An earlier try of the operation may be committed."""
        self.alone = isinstance(operation, Administer)
        """Whether it is a batch of its own: a refused change of limits rolls its transaction back, and a change of
        limits takes locks that others only share. So is an operation whose batch did not get its locks.
        """
        self.locked = False
        """Whether a row that it needs was locked by another session at its last try."""

    def needs(self, locked: ReadSet) -> bool:
        """Whether it needs one of these rows. A renewal goes on without the charges that are locked."""
        read_set = ReadSet()
        self.operation.declare_reads(read_set, retried=self.retried)
        return not isinstance(self.operation, Renew) and read_set.overlaps(locked)

    @property
    def closing(self) -> Closing | None:
        """The end of a charge that must be booked: the operation, or the release of a reserve that may be committed."""
        if isinstance(self.operation, Reserve):
            return self.operation.undo() if self.retried else None
        return self.operation if isinstance(self.operation, Closing) else None

    @property
    def is_withdrawn(self) -> bool:
        """Whether its caller no longer waits, and the operation can be dropped."""
        return self.future.done() and not self.operation.must_commit
