"""Whether the database takes the batches of a journal."""

import time
from contextlib import suppress
from typing import NamedTuple

import structlog

from tollkeeper.quota.stores.base import Store

log = structlog.get_logger("tollkeeper.ledger")


class OutageNote(NamedTuple):
    """Why the ledger admits no calls, and since when, in milliseconds since 1970; None if that is not known."""

    reason: str
    since_ms: int | None = None


class Outage:
    """`is_on` from the first batch that the database did not take, or not in time, until a write that it did.

    `note` is why, while it is on.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_reported = False
        self.is_on = False
        self.note: OutageNote | None = None

    def note_delay(self) -> None:
        """Nothing was committed in time, and the database has reported no error."""
        if not self.is_on:
            self._begin("nothing was committed in time")
            log.warning("ledger.unavailable", reason="nothing was committed in time")

    def note_failure(self, reason: str) -> None:
        """The database reported an error. The first one of an outage is logged."""
        self._begin(reason)
        if not self._is_reported:
            self._is_reported = True
            log.warning("ledger.unavailable", reason=reason)

    def end(self) -> None:
        """The database took a write."""
        if self.is_on:
            self.is_on = self._is_reported = False
            self.note = None
            log.info("ledger.recovered")

    def _begin(self, reason: str) -> None:
        """The last reason counts, and the first time."""
        self.is_on = True
        since_ms = self.note.since_ms if self.note is not None else time.time_ns() // 1_000_000
        self.note = OutageNote(reason, since_ms)

    async def probe(self) -> None:
        """End the outage if the database takes a write."""
        with suppress(Exception):
            await self._store.probe()
            self.end()
