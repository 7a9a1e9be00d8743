"""An operation in the ledger's journal, with the caller that waits for it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from tollkeeper.errors import TollkeeperError
from tollkeeper.quota.rules.operations import Administer, Closing, Operation, Renew, Reserve
from tollkeeper.quota.rules.page import ReadSet

LOCKED_PAUSE_S = 0.1
"""The pause before an operation is retried that needs a row which another session keeps locked."""
MAX_PAUSE_FACTOR = 16
MAX_LOCKED_S = 2.0
"""How long an operation that can be refused waits for such a row."""

KeepUnbooked = Callable[[Sequence[Closing]], object]
"""Receives the ends of charges that are not known to be committed, to have them booked later."""


class QueuedOperation:
    """An operation in the journal, and its caller's future. `since` and `deadline` are on the event loop's clock."""

    __slots__ = ("deadline", "future", "locked", "on_commit", "operation", "retried", "since", "suspect_tries")

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
        self.locked = False
        """Whether a row that it needs was locked by another session at its last try."""
        self.suspect_tries = 0
        """How often its batch did not get a lock, and it is not known which operation needs it. 0: never."""

    def note_start(self, now: float) -> None:
        """A batch with this operation starts. `now` is the event loop's time."""
        if isinstance(self.operation, Reserve):
            self.operation.waited_s = now - self.since

    @property
    def is_suspect(self) -> bool:
        return self.suspect_tries > 0

    @property
    def is_alone(self) -> bool:
        """Whether it is a batch of its own: a suspect, so that no other operation waits for a lock with it; or a change
        of limits, because a refused one rolls its transaction back, and it takes locks that others only share.
        """
        return self.is_suspect or isinstance(self.operation, Administer)

    @property
    def locked_pause_s(self) -> float:
        """The pause before it is tried again. A suspect's doubles, because each of its tries waits for a lock."""
        return LOCKED_PAUSE_S * min(1 << max(0, self.suspect_tries - 1), MAX_PAUSE_FACTOR)

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

    def give_up(self, refusal: TollkeeperError) -> None:
        """Resolve the future before the commit: with None if the operation must commit all the same, else a refusal."""
        if not self.future.done():
            if self.operation.must_commit:
                self.future.set_result(None)
            else:
                self.future.set_exception(refusal)

    @property
    def is_withdrawn(self) -> bool:
        """Whether its caller no longer waits, and the operation can be dropped."""
        return self.future.done() and not self.operation.must_commit

    @property
    def can_be_dropped(self) -> bool:
        """Whether it is withdrawn, and no earlier try of it can be committed."""
        return self.is_withdrawn and self.closing is None
