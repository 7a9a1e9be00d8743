"""A call's reservation: one entrance, one exit, and whatever became of the call in between."""

import random
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

import structlog

from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict, ProviderError, QuotaRefusal, TollkeeperError
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import ClosedCharge, Held, Release, Replayed, Settle, StoreResponse, Terms

if TYPE_CHECKING:
    from tollkeeper.quota.ledger import Ledger

log = structlog.get_logger("tollkeeper.ledger")

MAX_ERROR = 40
"""Characters of the code that a charge keeps of what went wrong."""


def new_id(prefix: str, after: str | None = None) -> str:
    """A fresh id that sorts by the time it was made: 48 bits of milliseconds, 80 random bits, in hex. Not a secret.

    It sorts behind `after`, whatever the clock says.
    """
    number = time.time_ns() // 1_000_000 << 80 | random.getrandbits(80)
    if after is not None:
        number = max(number, int(after.rpartition("_")[2], 16) + 1)
    return f"{prefix}_{number:032x}"


class Reservation:
    """One call's hold. Inside the block: `granted_output` says what it pays for, `report` says what the call used.

    The exit is the only place that settles or releases: a report is settled as reported, a failure that proves nothing
    was billed is released, and everything else follows the unknown rule with the checkpoint. `checkpoint` is (input,
    received output), which `measure` moves on.
    """

    def __init__(
        self,
        ledger: "Ledger",
        caller: Principal,
        terms: Terms,
        tighter: Callable[[], Awaitable[Terms]] | None,
        attempt: KeyedRequest | None = None,
    ) -> None:
        self._ledger = ledger
        self._tighter = tighter
        self.caller = caller
        self.terms = terms
        self.attempt = attempt
        self.charge_id = new_id("chg")
        self.held = Held(self.charge_id, 0)
        self.checkpoint = (0, 0)
        self.closed: ClosedCharge | None = None
        self.replayed: Replayed | None = None
        """The answer of an earlier call with the same key. Then nothing is held, and the exit does nothing."""
        self.on_lost: Callable[[], object] | None = None
        """Called when the charge is found closed while the call runs. What is reported then is booked as late truth."""
        self.measure: Callable[[], Awaitable[tuple[int, int]]] | None = None
        """Tells the checkpoint of a call that runs for long, when one is to be taken."""
        self.is_lost = False
        self._renewed = False
        self._unbilled = False
        self._usage: Usage | None = None
        self._basis = Basis.UNKNOWN
        self._answer: Callable[[ClosedCharge], StoredResponse | None] | None = None

    @property
    def granted_output(self) -> int:
        return self.held.granted_output

    async def __aenter__(self) -> "Reservation":
        try:
            answer = await self._ledger._open(self)
        except QuotaRefusal as refusal:
            if self._tighter is None or not refusal.limit:
                raise
            self.terms = await self._tighter()
            answer = await self._ledger._open(self)
        if isinstance(answer, Held):
            self._begin(answer)
        else:
            self._repeat(answer)
        return self

    def _repeat(self, replayed: Replayed) -> None:
        self.replayed = replayed
        self.held = Held(replayed.charge_id, 0, replayed.balances)
        money = self.terms.meter.micro_usd(Usage(0, 0))
        self.closed = ClosedCharge(
            replayed.charge_id, Basis.CACHE, Usage(0, 0), 0, money, overrun=False, balances=replayed.balances
        )

    def _begin(self, held: Held) -> None:
        self.held, self.charge_id = held, held.charge_id
        self.checkpoint = (self.terms.input_bound, 0)
        self.is_lost = self._unbilled = False
        self._usage, self._basis, self._answer = None, Basis.UNKNOWN, None

    async def extend(self, terms: Terms, error_code: str) -> None:
        """Go on with another attempt, which is a charge of its own: the one so far failed, and nothing was billed.

        Takes over `charge_id`, `terms`, `granted_output`, `held` and `checkpoint`. Raises what entering raises; the
        charge so far is released all the same, and the block can only be left, or extended once more. LedgerConflict:
        there is nothing to extend, the answer is a replay.
        """
        if self.replayed is not None:
            raise LedgerConflict
        self._usage, self._unbilled = None, True
        held = await self._ledger._extend(self, terms, error_code)
        self.terms = terms
        self._begin(held)

    def report(self, usage: Usage, basis: Basis = Basis.PROVIDER) -> None:
        """Say what the call used: as the provider reported it, or counted."""
        self._usage, self._basis = usage, basis

    def keep(self, answer: Callable[[ClosedCharge], StoredResponse | None]) -> None:
        """Store the response under its key, if the call has one. It is made, with the closed charge, when that is booked.

        `answer` must depend on nothing else: it is called in another thread, and maybe more than once.
        """
        self._answer = answer

    async def take_checkpoint(self) -> None:
        """Bring the checkpoint up to date, if anybody measures. A call's first renewal is too early for that."""
        charge_id = self.charge_id
        seen_before, self._renewed = self._renewed, True
        if self.measure is not None and seen_before:
            try:
                measured = await self.measure()
            except Exception:
                log.exception("ledger.checkpoint_failed", charge_id=charge_id)
            else:
                if charge_id == self.charge_id:
                    self.checkpoint = measured

    def lost(self) -> None:
        """Take note that the charge was found closed: its lease was over, and someone has swept it up."""
        if not self.is_lost:
            self.is_lost = True
            if self.on_lost is not None:
                self.on_lost()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.replayed is not None:
            return
        code = error.code if isinstance(error, TollkeeperError) else kind.__name__[:MAX_ERROR] if kind else None
        if self._usage is not None:
            operation: Settle | Release = Settle(self.charge_id, self._usage, self._basis, code, self._keep())
        elif self._unbilled or (isinstance(error, ProviderError) and not error.billed):
            operation = Release(self.charge_id, code)
        else:
            operation = Settle(self.charge_id, Usage(*self.checkpoint), Basis.UNKNOWN, code, self._keep())
        self.closed = await self._ledger._close(operation) or self._computed(operation)

    def _keep(self) -> StoreResponse | None:
        if self.attempt is None or self._answer is None:
            return None
        return StoreResponse(self.attempt.name(self.caller.user_id), self._answer)

    def _computed(self, operation: Settle | Release) -> ClosedCharge:
        """The end as far as it can be told without the ledger's answer."""
        if isinstance(operation, Release):
            return ClosedCharge(self.charge_id, Basis.NONE, Usage(0, 0), 0, None, overrun=False)
        meter, usage = self.terms.meter, operation.usage
        return ClosedCharge(
            self.charge_id, operation.basis, usage, meter.tokens(usage), meter.micro_usd(usage), overrun=False
        )
