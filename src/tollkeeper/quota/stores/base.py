"""The interface between the ledger and a database."""

from collections.abc import Callable
from typing import Protocol

from tollkeeper.errors import LedgerUnavailable
from tollkeeper.quota.rules.page import Page, ReadSet


class StoreFailed(LedgerUnavailable):
    """The database failed. `maybe_committed` is True if it failed at COMMIT, so that the batch may be committed."""

    def __init__(self, detail: str, *, maybe_committed: bool) -> None:
        super().__init__()
        self.reason = detail
        self.maybe_committed = maybe_committed


class StoreLost(StoreFailed):
    """The database is another one, or gone, and does not come back by itself. The process has to stop."""


class RowsLocked(Exception):
    """The batch was rolled back: another session keeps a row of it locked, and which operations need it is unknown."""


class Store(Protocol):
    """The rows of the ledger in one database."""

    @property
    def lost_reason(self) -> str | None:
        """Why the store raises StoreLost; None while it does not."""
        ...

    @property
    def refuses_calls(self) -> bool:
        """Whether new calls are refused although the database works, because its disk is almost full."""
        ...

    async def run(self, read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        """Read the rows under locks, let `decide` change the page, write the changes and commit: one transaction.

        Locks are taken in one order: charges by id, idempotency keys, policy rows by tenant, quotas by id, windows by
        id, jobs by id. What another session keeps locked is not on the page, but in `Page.locked`. An exception of
        `decide` rolls the transaction back, and is raised. Raises StoreFailed if the database fails, RowsLocked.
        """
        ...

    async def find_lapsed(self, limit: int) -> list[tuple[str, int]]:
        """At most `limit` open charges whose lease is over, the longest over first: (charge id, tenant id).

        Raises StoreFailed.
        """
        ...

    async def delete_old_keys(self, limit: int) -> int:
        """Delete at most `limit` expired idempotency keys. Returns how many were deleted. Raises StoreFailed."""
        ...

    async def delete_free_charges(self, min_age_ms: int, limit: int) -> int:
        """Delete at most `limit` charges of repeated responses that are at least this old, the oldest first.

        They have no entries. A charge that an idempotency key refers to stays. Returns how many were deleted. Raises
        StoreFailed.
        """
        ...

    async def probe(self) -> None:
        """Commit a write to a row that nothing reads. Raises StoreFailed if the database does not accept it."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
