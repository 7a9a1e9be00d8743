"""The seam between the ledger and a database."""

from collections.abc import Callable
from typing import Protocol

from tollkeeper.errors import LedgerUnavailable
from tollkeeper.quota.rules.page import Page, ReadSet


class StoreFailed(LedgerUnavailable):
    """The database did not take a batch. `maybe_committed` is True when the answer to COMMIT was lost."""

    def __init__(self, detail: str, *, maybe_committed: bool) -> None:
        super().__init__()
        self.reason = detail
        self.maybe_committed = maybe_committed


class Store(Protocol):
    """One database of the ledger."""

    async def run(self, needs: ReadSet, decide: Callable[[Page], None]) -> None:
        """Read what is needed under locks, let `decide` work on it, write and commit; all in one transaction.

        Locks are taken in one order: charges by id, policy rows, idempotency keys, windows by id. Whatever `decide`
        raises rolls everything back. Raises StoreFailed when the database does not take it.
        """
        ...

    async def lapsed(self, most: int) -> list[str]:
        """Ids of at most `most` open charges whose lease is over, oldest first. Raises StoreFailed."""
        ...

    async def forget_keys(self, most: int) -> int:
        """Delete at most `most` idempotency keys that are too old. Returns how many. Raises StoreFailed."""
        ...

    async def probe(self) -> None:
        """Write something that changes nothing. Raises StoreFailed when the database does not take it."""
        ...

    async def close(self) -> None: ...
