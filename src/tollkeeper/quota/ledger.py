"""The ledger: the only place where quota changes. Every surface walks through `reservation`; its one exit settles."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from tollkeeper.principal import Principal
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.reservation import MAX_ERROR, Reservation, new_id
from tollkeeper.quota.rules.keys import KeyedRequest
from tollkeeper.quota.rules.operations import (
    Administer,
    Balance,
    ClosedCharge,
    Expire,
    Extend,
    Grant,
    Held,
    Refund,
    Release,
    Renew,
    Replayed,
    Reserve,
    SetLimit,
    Settle,
    Terms,
)
from tollkeeper.quota.stores.base import Store

__all__ = ["Ledger", "Reservation"]

RESERVE_WAIT_S = 2.0
SETTLE_WAIT_S = 5.0
ADMINISTER_WAIT_S = 10.0
MAX_LAPSED = 500
MEASURING = 0.1
"""Of a lease: how long a renewal waits for checkpoints. Those not taken by then are as they were the last time."""
MAX_FORGOTTEN = 50
FORGET_PAUSE_S = 0.05
"""Between two batches of keys that are forgotten, so that those of the ledger do not wait for more than one."""

log = structlog.get_logger("tollkeeper.ledger")


class Ledger:
    """The verbs, on one store."""

    def __init__(self, store: Store, *, lease_seconds: float, queue_limit: int = 10_000) -> None:
        self._store = store
        self._journal = Journal(store, queue_limit=queue_limit)
        self._lease_ms = int(lease_seconds * 1000)
        self._in_flight: dict[str, Reservation] = {}

    @property
    def available(self) -> bool:
        """False from a batch that the database did not take, or not in time, until one that it did."""
        return not self._journal.failing

    @property
    def in_flight(self) -> int:
        """How many calls of this process hold something."""
        return len(self._in_flight)

    def start(self) -> None:
        self._journal.start()

    async def stop(self, drain_seconds: float = SETTLE_WAIT_S) -> None:
        """Let what is queued land, then close the store."""
        if not await self._journal.drain(drain_seconds):
            log.warning("ledger.stopped_before_everything_landed")
        await self._journal.stop()
        await self._store.close()

    def reservation(
        self,
        caller: Principal,
        terms: Terms,
        tighter: Callable[[], Awaitable[Terms]] | None = None,
        attempt: KeyedRequest | None = None,
    ) -> Reservation:
        """A hold on every quota that applies, for the length of an `async with` block.

        A quota that refuses `terms` is asked once more with what `tighter` answers. Entering raises Unauthenticated,
        QuotaExceeded, QuotaHeld or LedgerUnavailable, and with an `attempt` an IdempotencyError; leaving settles or
        releases. When the attempt's key stands for an answer, `replayed` has it, and nobody is to be called.
        """
        return Reservation(self, caller, terms, tighter, attempt)

    async def administer(self, acts: tuple[SetLimit | Grant, ...], *, actor: str, reason: str) -> tuple[Balance, ...]:
        """Set limits and top up, all or none; each is an entry with actor and reason.

        Raises NotFound for a grant to a quota that does not exist, InvalidRequest, LedgerUnavailable.
        """
        operation = Administer(new_id("adm"), acts, actor, reason)
        balances: tuple[Balance, ...] = await self._ask(operation, ADMINISTER_WAIT_S)
        return balances

    async def refund(self, charge_id: str, *, actor: str, reason: str) -> int:
        """Give one charge's cost back. Returns the tokens. Raises NotFound, LedgerConflict, LedgerUnavailable."""
        tokens: int = await self._ask(Refund(charge_id, actor, reason), ADMINISTER_WAIT_S)
        return tokens

    async def renew(self) -> None:
        """Prove that every call in flight of this process is alive, in one operation; tell those found closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lease_ms / 1000 * MEASURING):
                await asyncio.gather(*(held.take_checkpoint() for held in list(self._in_flight.values())))
        checkpoints = {charge_id: held.checkpoint for charge_id, held in self._in_flight.items()}
        if checkpoints:
            gone: set[str] = await self._journal.submit(Renew(checkpoints, self._lease_ms))
            for charge_id in gone & self._in_flight.keys():
                log.warning("ledger.charge_closed_while_in_flight", charge_id=charge_id)
                try:
                    self._in_flight[charge_id].lost()
                except Exception:
                    log.exception("ledger.lost_call_not_told", charge_id=charge_id)

    async def sweep(self) -> int:
        """End every charge whose lease is over, but none that this process still has in flight. Returns how many.

        Raises StoreFailed.
        """
        swept = 0
        while True:
            lapsed = await self._store.lapsed(MAX_LAPSED + len(self._in_flight))
            foreign = [charge_id for charge_id in lapsed if charge_id not in self._in_flight]
            expiring = (self._journal.submit(Expire(charge_id)) for charge_id in foreign)
            ended = sum(one is True for one in await asyncio.gather(*expiring, return_exceptions=True))
            swept += ended
            if ended < MAX_LAPSED:
                break
        if swept:
            log.info("ledger.swept", charges=swept)
        return swept

    async def tidy(self) -> int:
        """Forget idempotency keys that are too old, some at a time. Returns how many. Raises StoreFailed."""
        forgotten = 0
        while some := await self._store.forget_keys(MAX_FORGOTTEN):
            forgotten += some
            await asyncio.sleep(FORGET_PAUSE_S)
        return forgotten

    async def _ask(
        self, operation: Administer | Refund | Reserve, seconds: float, landed: Callable[[], object] | None = None
    ) -> Any:
        """Wait for an operation that can be withdrawn. Raises LedgerUnavailable when that takes too long.

        Cancelled while it waits, it withdraws; cancelled when the answer is there but not yet taken, it releases.
        """
        future = self._journal.submit(operation, wait_s=seconds, landed=landed)
        try:
            return await future
        except asyncio.CancelledError:
            if isinstance(operation, Reserve) and not future.cancelled() and future.exception() is None:
                self._journal.submit(operation.undone())
            raise

    async def _open(self, reservation: Reservation) -> Held | Replayed:
        operation = Reserve(
            reservation.charge_id, reservation.caller, reservation.terms, self._lease_ms, attempt=reservation.attempt
        )
        answer: Held | Replayed = await self._ask(operation, RESERVE_WAIT_S)
        if isinstance(answer, Held):
            self._in_flight[answer.charge_id] = reservation
        return answer

    async def _extend(self, reservation: Reservation, terms: Terms, error: str) -> Held:
        failed = reservation.charge_id
        operation = Extend(
            new_id("chg", after=failed),
            reservation.caller,
            terms,
            self._lease_ms,
            attempt=reservation.attempt,
            previous=failed,
            error=error[:MAX_ERROR],
        )
        held: Held = await self._ask(operation, RESERVE_WAIT_S, landed=partial(self._in_flight.pop, failed, None))
        self._in_flight[held.charge_id] = reservation
        return held

    async def _close(self, operation: Settle | Release) -> ClosedCharge | None:
        """Queue the end of a charge, which lands whatever happens to the caller. None: it has not, in SETTLE_WAIT_S."""
        landed = partial(self._in_flight.pop, operation.charge_id, None)
        closed: ClosedCharge | None = await self._journal.submit(operation, wait_s=SETTLE_WAIT_S, landed=landed)
        if closed is None:
            log.warning("ledger.settle_is_late", charge_id=operation.charge_id)
        return closed
