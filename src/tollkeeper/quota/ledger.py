"""The ledger: the only place where quota changes. Every surface walks through `reservation`; its one exit settles."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any

import structlog

from tollkeeper.chat import Usage
from tollkeeper.errors import ProviderError, QuotaRefusal, TollkeeperError
from tollkeeper.principal import Principal
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.models import Basis
from tollkeeper.quota.operations import (
    Administer,
    Balance,
    Closed,
    Expire,
    Extend,
    Grant,
    Held,
    Refund,
    Release,
    Renew,
    Reserve,
    SetLimit,
    Settle,
    Terms,
)
from tollkeeper.quota.store import Store

RESERVE_WAIT_S = 2.0
SETTLE_WAIT_S = 5.0
ADMINISTER_WAIT_S = 10.0
MOST_LAPSED = 500
MOST_ERROR = 40
"""Characters of the code that a charge keeps of what went wrong."""

log = structlog.get_logger("tollkeeper.ledger")


def new_id(prefix: str) -> str:
    """A fresh id that sorts by the time it was made: 48 bits of milliseconds, 80 random bits, in hex. Not a secret."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"


class Ledger:
    """The verbs, on one store."""

    def __init__(self, store: Store, *, lease_seconds: float, queue_limit: int = 10_000) -> None:
        self._store = store
        self._journal = Journal(store, queue_limit=queue_limit)
        self._lease_ms = int(lease_seconds * 1000)
        self._in_flight: dict[str, Reservation] = {}

    @property
    def available(self) -> bool:
        """False from a batch that the database did not take until one that it did."""
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
        self, caller: Principal, terms: Terms, tighter: Callable[[], Awaitable[Terms]] | None = None
    ) -> "Reservation":
        """A hold on every quota that applies, for the length of an `async with` block.

        A quota that refuses `terms` is asked once more with what `tighter` answers. Entering raises Unauthenticated,
        QuotaExceeded, QuotaHeld or LedgerUnavailable; leaving settles or releases.
        """
        return Reservation(self, caller, terms, tighter)

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
            lapsed = await self._store.lapsed(MOST_LAPSED + len(self._in_flight))
            foreign = [charge_id for charge_id in lapsed if charge_id not in self._in_flight]
            expiring = (self._journal.submit(Expire(charge_id)) for charge_id in foreign)
            ended = sum(one is True for one in await asyncio.gather(*expiring, return_exceptions=True))
            swept += ended
            if ended < MOST_LAPSED:
                break
        if swept:
            log.info("ledger.swept", charges=swept)
        return swept

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

    async def _open(self, reservation: "Reservation") -> Held:
        operation = Reserve(reservation.charge_id, reservation.caller, reservation.terms, self._lease_ms)
        held: Held = await self._ask(operation, RESERVE_WAIT_S)
        self._in_flight[held.charge_id] = reservation
        return held

    async def _extend(self, reservation: "Reservation", terms: Terms, error: str) -> Held:
        failed = reservation.charge_id
        operation = Extend(
            new_id("chg"), reservation.caller, terms, self._lease_ms, previous=failed, error=error[:MOST_ERROR]
        )
        held: Held = await self._ask(operation, RESERVE_WAIT_S, landed=partial(self._in_flight.pop, failed, None))
        self._in_flight[held.charge_id] = reservation
        return held

    async def _close(self, operation: Settle | Release) -> Closed | None:
        """Queue the end of a charge, which lands whatever happens to the caller. None: it has not, in SETTLE_WAIT_S."""
        landed = partial(self._in_flight.pop, operation.charge_id, None)
        closed: Closed | None = await self._journal.submit(operation, wait_s=SETTLE_WAIT_S, landed=landed)
        if closed is None:
            log.warning("ledger.settle_is_late", charge_id=operation.charge_id)
        return closed


class Reservation:
    """One call's hold. Inside the block: `granted_output` says what it pays for, `report` says what the call used.

    The exit is the only place that settles or releases: a report is settled as reported, a failure that proves nothing
    was billed is released, and everything else follows the unknown rule with the checkpoint. `checkpoint` is (input,
    received output); whoever streams moves it on.
    """

    def __init__(
        self, ledger: Ledger, caller: Principal, terms: Terms, tighter: Callable[[], Awaitable[Terms]] | None
    ) -> None:
        self._ledger = ledger
        self._tighter = tighter
        self.caller = caller
        self.terms = terms
        self.charge_id = new_id("chg")
        self.held = Held(self.charge_id, 0)
        self.checkpoint = (0, 0)
        self.closed: Closed | None = None
        self.on_lost: Callable[[], object] | None = None
        """Called when the charge is found closed while the call runs. What is reported then is booked as late truth."""
        self.is_lost = False
        self._unbilled = False
        self._usage: Usage | None = None
        self._basis = Basis.UNKNOWN

    @property
    def granted_output(self) -> int:
        return self.held.granted_output

    async def __aenter__(self) -> "Reservation":
        try:
            held = await self._ledger._open(self)
        except QuotaRefusal:
            if self._tighter is None:
                raise
            self.terms = await self._tighter()
            held = await self._ledger._open(self)
        self._begin(held)
        return self

    def _begin(self, held: Held) -> None:
        self.held, self.charge_id = held, held.charge_id
        self.checkpoint = (self.terms.input_bound, 0)
        self.is_lost = self._unbilled = False
        self._usage, self._basis = None, Basis.UNKNOWN

    async def extend(self, terms: Terms, error_code: str) -> None:
        """Go on with another attempt, which is a charge of its own: the one so far failed, and nothing was billed.

        Takes over `charge_id`, `terms`, `granted_output`, `held` and `checkpoint`. Raises what entering raises; the
        charge so far is released all the same, and the block can only be left, or extended once more.
        """
        self._usage, self._unbilled = None, True
        held = await self._ledger._extend(self, terms, error_code)
        self.terms = terms
        self._begin(held)

    def report(self, usage: Usage, basis: Basis = Basis.PROVIDER) -> None:
        """Say what the call used: as the provider reported it, or counted."""
        self._usage, self._basis = usage, basis

    def lost(self) -> None:
        """Take note that the charge was found closed: its lease was over, and someone has swept it up."""
        if not self.is_lost:
            self.is_lost = True
            if self.on_lost is not None:
                self.on_lost()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = error.code if isinstance(error, TollkeeperError) else kind.__name__[:MOST_ERROR] if kind else None
        if self._usage is not None:
            operation: Settle | Release = Settle(self.charge_id, self._usage, self._basis, code)
        elif self._unbilled or (isinstance(error, ProviderError) and not error.billed):
            operation = Release(self.charge_id, code)
        else:
            operation = Settle(self.charge_id, Usage(*self.checkpoint), Basis.UNKNOWN, code)
        self.closed = await self._ledger._close(operation) or self._computed(operation)

    def _computed(self, operation: Settle | Release) -> Closed:
        """The end as far as it can be told without the ledger's answer."""
        if isinstance(operation, Release):
            return Closed(self.charge_id, Basis.NONE, Usage(0, 0), 0, None, overrun=False)
        meter, usage = self.terms.meter, operation.usage
        return Closed(
            self.charge_id, operation.basis, usage, meter.tokens(usage), meter.micro_usd(usage), overrun=False
        )
