"""The ledger: the only code that changes balances. Calls use `reservation`, whose one exit settles or releases."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from tollkeeper.principal import Principal
from tollkeeper.quota.in_flight import RESERVE_WAIT_S, SETTLE_WAIT_S, CallsInFlight
from tollkeeper.quota.job_reservation import EarlyReservation, LateReservation
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.lease_guard import LeaseGuard
from tollkeeper.quota.outage import OutageNote
from tollkeeper.quota.queued_operation import KeepUnbooked
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.calls import LinkedCharge, LinkedTerms
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.rules.limit_changes import LimitChange
from tollkeeper.quota.rules.operations import (
    Administer,
    Balance,
    BookFree,
    ClosedCharge,
    Closing,
    Expire,
    Hold,
    Refund,
    Reserve,
    Terms,
    Withdraw,
)
from tollkeeper.quota.stores.base import Store
from tollkeeper.quota.time_sorted_ids import CHARGE_PREFIX, linked_id, new_id

ADMINISTER_WAIT_S = 10.0
SWEEP_BATCH = 500
"""Charges that a sweep expires before it queries for more."""
DELETION_BATCH = 50
"""Old rows that are deleted in one transaction."""
DELETION_PAUSE_S = 0.05
"""The pause between two deletions of rows, so that a batch waits for at most one of them."""

log = structlog.get_logger("tollkeeper.ledger")


def new_operation_id() -> str:
    """The id of an administrative operation."""
    return new_id("adm")


@dataclass(slots=True)
class Swept:
    """What the sweeps of this process have expired, and what was forgiven by that."""

    charges: int = 0
    forgiven_tokens: int = 0
    forgiven_micro_usd: int = 0

    def add(self, expired: Sequence[ClosedCharge]) -> None:
        """Count these charges."""
        self.charges += len(expired)
        self.forgiven_tokens += sum(charge.forgiven_tokens for charge in expired)
        self.forgiven_micro_usd += sum(charge.forgiven_micro_usd or 0 for charge in expired)


class Ledger:
    """The operations of the ledger on one store. A call without a renewal for `lease_seconds` is expired. `on_batch` is
    called after each commit, with the number of operations and the seconds of the transaction.
    """

    def __init__(
        self,
        store: Store,
        *,
        lease_seconds: float,
        queue_limit: int = 10_000,
        on_batch: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self._store = store
        self._journal = Journal(store, queue_limit=queue_limit, on_batch=on_batch)
        self._calls = CallsInFlight(self._journal, lease_ms=int(lease_seconds * 1000))
        self.swept = Swept()

    @property
    def available(self) -> bool:
        """False from the first batch that the database did not take, or not in time, until a write that it did; and
        while its disk is almost full.
        """
        return not self._journal.failing and not self._store.refuses_calls

    @property
    def outage(self) -> OutageNote | None:
        """Why no call is admitted, and since when; None while `available`."""
        if self._store.lost_reason is not None:
            return OutageNote(self._store.lost_reason)
        if (note := self._journal.outage) is not None:
            return note
        return OutageNote("The disk of the database is almost full.") if self._store.refuses_calls else None

    @property
    def queued(self) -> int:
        """How many operations wait to be committed."""
        return self._journal.queued

    @property
    def oldest_hold_s(self) -> float:
        """How old the oldest open charge of this process is, in seconds; 0 without any."""
        return self._calls.oldest_hold_s

    @property
    def store_lost(self) -> bool:
        """Whether the last batch found that the database is another one, or gone."""
        return self._store.lost_reason is not None

    @property
    def in_flight(self) -> int:
        """How many calls of this process have an open charge."""
        return len(self._calls)

    def start(self) -> None:
        """Start the journal."""
        self._journal.start()

    async def stop(self, drain_seconds: float = SETTLE_WAIT_S, keep_unbooked: KeepUnbooked = lambda _: None) -> None:
        """Wait at most `drain_seconds` for queued operations to commit, then close the store.

        `keep_unbooked` receives the ends of charges that are not known to be committed, and later those of calls that
        end after this.
        """
        await self._journal.drain(drain_seconds)
        await self._journal.stop(keep_unbooked)
        await self._store.close()

    def book(self, operation: Closing) -> asyncio.Future[Any]:
        """Book the end of a charge that an earlier process could not book. The future has the result of the commit."""
        return self._journal.submit(operation)

    def reservation(
        self,
        caller: Principal,
        terms: Terms,
        keyed_request: KeyedRequest | None = None,
        linked_terms: LinkedTerms | None = None,
    ) -> Reservation:
        """A hold on every quota that applies, for the length of an `async with` block.

        Entering raises Unauthenticated, QuotaExceeded, QuotaHeld or LedgerUnavailable, and with a `keyed_request` an
        IdempotencyError; leaving settles or releases. If a response is stored for the key, it is in `replayed`, and the
        block must not call the provider. With `linked_terms`, a second call is admitted, too, or none of both.
        """
        return Reservation(self._calls, caller, terms, keyed_request, linked_terms)

    async def reserve_for_job(
        self, caller: Principal, terms: Terms, linked_terms: LinkedTerms | None, *, job_id: str, lease_ms: int
    ) -> Hold:
        """Hold on the quotas for a job that starts within `lease_ms`; else the hold is given back. The job is pending.
        With `linked_terms`, a second call is admitted, too, or none of both.

        Raises Unauthenticated, QuotaExceeded, QuotaHeld, LedgerUnavailable.
        """
        charge_id = new_id(CHARGE_PREFIX)
        linked = LinkedCharge(linked_id(charge_id), linked_terms) if linked_terms is not None else None
        operation = Reserve(charge_id, caller, terms, lease_ms, dispatch=False, job_id=job_id, linked=linked)
        hold: Hold = await self._journal.execute(operation, RESERVE_WAIT_S)
        return hold

    def early_reservation(
        self,
        caller: Principal,
        terms: Terms,
        job_id: str,
        charge_id: str,
        linked_terms: Terms | None = None,
        *,
        fallback: bool = False,
    ) -> EarlyReservation:
        """The hold of a job that starts now and was reserved before, for the length of an `async with` block. Entering
        raises as `EarlyReservation` says. `linked_terms` are those of the second charge that was reserved with it. With
        `fallback`, the terms are those of another model.
        """
        return EarlyReservation(self._calls, caller, terms, job_id, charge_id, linked_terms, fallback=fallback)

    def late_reservation(self, caller: Principal, terms: Terms, job_id: str) -> LateReservation:
        """The hold of a job that starts now, and is reserved now. Entering raises as `LateReservation` says."""
        return LateReservation(self._calls, caller, terms, job_id)

    async def withdraw(self, charge_id: str, tenant_id: int, reason: str) -> bool:
        """Release a charge of which nothing was sent yet, and a second one that was reserved with it. Returns whether
        it is. Raises LedgerUnavailable.
        """
        withdrawn: bool = await self._journal.execute(Withdraw(charge_id, tenant_id, reason), ADMINISTER_WAIT_S)
        return withdrawn

    async def book_free(self, caller: Principal, terms: Terms) -> ClosedCharge:
        """Book a call that is answered without a provider, at no cost. Returns its charge, with the balances.

        Raises Unauthenticated, LedgerUnavailable, and QuotaExceeded if the user has no token quota at all.
        """
        operation = BookFree(new_id(CHARGE_PREFIX), caller, terms, lease_ms=0)
        closed: ClosedCharge = await self._journal.execute(operation, RESERVE_WAIT_S)
        return closed

    async def administer(
        self, changes: tuple[LimitChange, ...], *, actor: str, reason: str, operation_id: str | None = None
    ) -> tuple[Balance, ...]:
        """Change limits, all or none. Each change is an entry with the actor and a reason.

        `operation_id` is one of `new_operation_id`: the changes are made once, however often they are repeated with it.
        Returns the balances of the quotas that are not removed. Raises NotFound for a change of a quota that does not
        exist, InvalidRequest, LedgerUnavailable.
        """
        operation = Administer(operation_id or new_operation_id(), changes, actor, reason)
        balances: tuple[Balance, ...] = await self._journal.execute(operation, ADMINISTER_WAIT_S)
        return balances

    async def refund(self, charge_id: str, tenant_id: int, *, actor: str, reason: str) -> int:
        """Give the cost of a charge back. Returns its tokens. Raises NotFound, LedgerConflict, LedgerUnavailable."""
        tokens: int = await self._journal.execute(Refund(charge_id, tenant_id, actor, reason), ADMINISTER_WAIT_S)
        return tokens

    def lease_guard(self, make_store: Callable[[], Store], *, max_stall_s: float) -> LeaseGuard:
        """A thread that renews the leases while the event loop is stalled."""
        return LeaseGuard(self._calls, make_store, max_stall_s=max_stall_s)

    async def renew(self) -> None:
        """Renew the leases of all calls in flight of this process."""
        await self._calls.renew()

    async def sweep(self) -> int:
        """Expire each charge whose lease is over, except those of calls in flight in this process. Returns how many.

        Raises StoreFailed.
        """
        swept = 0
        while True:
            lapsed = await self._store.find_lapsed(SWEEP_BATCH + len(self._calls))
            orphaned = [charge for charge in lapsed if charge[0] not in self._calls]
            expiries = (self._journal.submit(Expire(*charge)) for charge in orphaned)
            results: list[Any] = await asyncio.gather(*expiries, return_exceptions=True)
            expired = [result for result in results if isinstance(result, ClosedCharge)]
            swept += len(expired)
            self.swept.add(expired)
            if len(expired) < SWEEP_BATCH:
                break
        if swept:
            log.info("ledger.swept", charges=swept)
        return swept

    async def delete_old_keys(self) -> int:
        """Delete expired idempotency keys, a few per transaction. Returns how many. Raises StoreFailed."""
        return await _delete_in_batches(self._store.delete_old_keys)

    async def delete_free_charges(self, min_age_ms: int) -> int:
        """Delete the charges of repeated responses that are at least this old, a few per transaction.

        Returns how many. Raises StoreFailed.
        """
        return await _delete_in_batches(lambda limit: self._store.delete_free_charges(min_age_ms, limit))


async def _delete_in_batches(delete: Callable[[int], Awaitable[int]]) -> int:
    deleted = 0
    while batch := await delete(DELETION_BATCH):
        deleted += batch
        await asyncio.sleep(DELETION_PAUSE_S)
    return deleted
