"""The ledger: the only place where quota changes. Every surface uses `reservation`, whose one exit settles."""

import asyncio
from typing import Any

import structlog

from tollkeeper.principal import Principal
from tollkeeper.quota.in_flight import SETTLE_WAIT_S, CallsInFlight
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.keys import KeyedRequest
from tollkeeper.quota.rules.operations import Administer, Balance, Expire, Grant, Refund, SetLimit, Terms
from tollkeeper.quota.stores.base import Store
from tollkeeper.quota.time_sorted_ids import new_id

ADMINISTER_WAIT_S = 10.0
MAX_LAPSED = 500
"""Charges that a sweep expires at a time."""
MAX_FORGOTTEN = 50
"""Idempotency keys that are deleted at a time."""
FORGET_PAUSE_S = 0.05
"""Between two deletions of keys, so that the ledger's own batches wait for one at the most."""

log = structlog.get_logger("tollkeeper.ledger")


class Ledger:
    """The verbs, on one store. `lease_seconds` is how long a call stays in flight without a renewal."""

    def __init__(self, store: Store, *, lease_seconds: float, queue_limit: int = 10_000) -> None:
        self._store = store
        self._journal = Journal(store, queue_limit=queue_limit)
        self._calls = CallsInFlight(self._journal, lease_ms=int(lease_seconds * 1000))

    @property
    def available(self) -> bool:
        """False from a batch that the database did not take, or not in time, until one that it did."""
        return not self._journal.failing

    @property
    def in_flight(self) -> int:
        """How many calls of this process hold something."""
        return len(self._calls)

    def start(self) -> None:
        self._journal.start()

    async def stop(self, drain_seconds: float = SETTLE_WAIT_S) -> None:
        """Let what is queued land, then close the store."""
        if not await self._journal.drain(drain_seconds):
            log.warning("ledger.stopped_before_everything_landed")
        await self._journal.stop()
        await self._store.close()

    def reservation(self, caller: Principal, terms: Terms, keyed_request: KeyedRequest | None = None) -> Reservation:
        """A hold on every quota that applies, for the length of an `async with` block.

        Entering raises Unauthenticated, QuotaExceeded, QuotaHeld or LedgerUnavailable, and with a `keyed_request` an
        IdempotencyError; leaving settles or releases. When there is a stored response for the key, `replayed` has it,
        and no provider is to be called.
        """
        return Reservation(self._calls, caller, terms, keyed_request)

    async def administer(self, acts: tuple[SetLimit | Grant, ...], *, actor: str, reason: str) -> tuple[Balance, ...]:
        """Set limits and add to them, all or none; each is an entry with actor and reason.

        Raises NotFound for a grant to a quota that does not exist, InvalidRequest, LedgerUnavailable.
        """
        operation = Administer(new_id("adm"), acts, actor, reason)
        balances: tuple[Balance, ...] = await self._journal.request(operation, ADMINISTER_WAIT_S)
        return balances

    async def refund(self, charge_id: str, *, actor: str, reason: str) -> int:
        """Give the cost of one charge back. Returns the tokens. Raises NotFound, LedgerConflict, LedgerUnavailable."""
        tokens: int = await self._journal.request(Refund(charge_id, actor, reason), ADMINISTER_WAIT_S)
        return tokens

    async def renew(self) -> None:
        """Renew the leases of all calls in flight of this process."""
        await self._calls.renew()

    async def sweep(self) -> int:
        """Expire each charge whose lease is over, but none of a call in flight here. Returns how many.

        Raises StoreFailed.
        """
        swept = 0
        while True:
            lapsed = await self._store.lapsed(MAX_LAPSED + len(self._calls))
            foreign = [charge_id for charge_id in lapsed if charge_id not in self._calls]
            expiring = (self._journal.submit(Expire(charge_id)) for charge_id in foreign)
            answers: list[Any] = await asyncio.gather(*expiring, return_exceptions=True)
            expired = sum(answer is True for answer in answers)
            swept += expired
            if expired < MAX_LAPSED:
                break
        if swept:
            log.info("ledger.swept", charges=swept)
        return swept

    async def tidy(self) -> int:
        """Delete idempotency keys that are too old, some at a time. Returns how many. Raises StoreFailed."""
        forgotten = 0
        while some := await self._store.forget_keys(MAX_FORGOTTEN):
            forgotten += some
            await asyncio.sleep(FORGET_PAUSE_S)
        return forgotten
