"""Whether the database takes the batches of a journal."""

from contextlib import suppress

import structlog

from tollkeeper.quota.stores.base import Store

log = structlog.get_logger("tollkeeper.ledger")


class Outage:
    """`is_on` from the first batch that the database did not take, or not in time, until a write that it did."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_reported = False
        self.is_on = False

    def note_delay(self) -> None:
        """Nothing was committed in time, and the database has reported no error."""
        if not self.is_on:
            self.is_on = True
            log.warning("ledger.unavailable", reason="nothing was committed in time")

    def note_failure(self, reason: str) -> None:
        """The database reported an error. The first one of an outage is logged."""
        self.is_on = True
        if not self._is_reported:
            self._is_reported = True
            log.warning("ledger.unavailable", reason=reason)

    def end(self) -> None:
        """The database took a write."""
        if self.is_on:
            self.is_on = self._is_reported = False
            log.info("ledger.recovered")

    async def probe(self) -> None:
        """End the outage if the database takes a write that changes nothing."""
        with suppress(Exception):
            await self._store.probe()
            self.end()
