"""A call's reservation: one entrance, one exit, and whatever happens to the call in between."""

from collections.abc import Awaitable, Callable
from types import TracebackType

import structlog

from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict, ProviderError, TollkeeperError
from tollkeeper.principal import Principal
from tollkeeper.quota.in_flight import CallsInFlight
from tollkeeper.quota.rules.keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import (
    ClosedCharge,
    Extend,
    Held,
    Release,
    Replayed,
    Reserve,
    Settle,
    StoreResponse,
    Terms,
)
from tollkeeper.quota.time_sorted_ids import new_id

log = structlog.get_logger("tollkeeper.ledger")

MAX_ERROR_LENGTH = 40
"""Characters of the error code that a charge keeps."""


class Reservation:
    """The hold of one call. In the block, `granted_output` is the output that it pays for, and `report` sets the usage.

    The exit is the only place that settles or releases. A reported usage is settled; a failure that proves that nothing
    was billed is released; everything else follows the rule for unknown outcomes, with the checkpoint. `checkpoint` is
    (input, received output) in tokens; renewals of the lease bring it up to date with `measure`.
    """

    def __init__(
        self, calls: CallsInFlight, caller: Principal, terms: Terms, keyed_request: KeyedRequest | None = None
    ) -> None:
        self._calls = calls
        self._caller = caller
        self._keyed_request = keyed_request
        self.terms = terms
        self.charge_id = new_id("chg")
        self.held = Held(self.charge_id, 0)
        self.checkpoint = (0, 0)
        self.closed: ClosedCharge | None = None
        self.replayed: Replayed | None = None
        """The stored response of an earlier call with the same key. Then nothing is held, and the exit does nothing."""
        self.on_lost: Callable[[], object] | None = None
        """Called when the charge is found closed while the call runs. A later report is booked as an adjustment."""
        self.measure: Callable[[], Awaitable[tuple[int, int]]] | None = None
        """Returns the checkpoint of a call in flight."""
        self.is_lost = False
        self._renewed = False
        self._unbilled = False
        self._usage: Usage | None = None
        self._basis = Basis.UNKNOWN
        self._render: Callable[[ClosedCharge], StoredResponse | None] | None = None

    @property
    def granted_output(self) -> int:
        return self.held.granted_output

    @property
    def closed_charge(self) -> ClosedCharge:
        """How the charge was closed. Only after the block."""
        assert self.closed is not None
        return self.closed

    async def __aenter__(self) -> "Reservation":
        operation = Reserve(
            self.charge_id, self._caller, self.terms, self._calls.lease_ms, keyed_request=self._keyed_request
        )
        answer = await self._calls.reserve(self, operation)
        if isinstance(answer, Held):
            self._begin(answer)
        else:
            self._replay(answer)
        return self

    def _replay(self, replayed: Replayed) -> None:
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
        self._usage, self._basis, self._render = None, Basis.UNKNOWN, None

    async def extend(self, terms: Terms, error_code: str) -> None:
        """Continue with another attempt, which is a charge of its own: the attempt so far failed, with nothing billed.

        Replaces `charge_id`, `terms`, `granted_output`, `held` and `checkpoint`. Raises what entering raises; the
        charge so far is released even then, and the block can only be left, or extended once more. Raises
        LedgerConflict when the response is a replay.
        """
        if self.replayed is not None:
            raise LedgerConflict
        self._usage, self._unbilled = None, True
        operation = Extend(
            new_id("chg", after=self.charge_id),
            self._caller,
            terms,
            self._calls.lease_ms,
            keyed_request=self._keyed_request,
            previous=self.charge_id,
            error=error_code[:MAX_ERROR_LENGTH],
        )
        held = await self._calls.extend(self, operation)
        self.terms = terms
        self._begin(held)

    def report(self, usage: Usage, basis: Basis = Basis.PROVIDER) -> None:
        """Set what the call used: as the provider reported it, or as counted."""
        self._usage, self._basis = usage, basis

    def store_response(self, render: Callable[[ClosedCharge], StoredResponse | None]) -> None:
        """Store the response under the call's key, if it has one, in the transaction that closes the charge.

        `render` must depend on nothing but the closed charge: it is called in another thread, and maybe more than once.
        """
        self._render = render

    async def take_checkpoint(self) -> None:
        """Bring the checkpoint up to date. A call's first renewal is too early for that."""
        charge_id = self.charge_id
        renewed_before, self._renewed = self._renewed, True
        if self.measure is not None and renewed_before:
            try:
                measured = await self.measure()
            except Exception:
                log.exception("ledger.checkpoint_failed", charge_id=charge_id)
            else:
                if charge_id == self.charge_id:
                    self.checkpoint = measured

    def lost(self) -> None:
        """The charge was found closed: its lease had ended, and a sweep has expired it."""
        if not self.is_lost:
            self.is_lost = True
            if self.on_lost is not None:
                self.on_lost()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.replayed is not None:
            return
        code = error.code if isinstance(error, TollkeeperError) else kind.__name__[:MAX_ERROR_LENGTH] if kind else None
        if self._usage is not None:
            operation: Settle | Release = Settle(self.charge_id, self._usage, self._basis, code, self._stored())
        elif self._unbilled or (isinstance(error, ProviderError) and not error.billed):
            operation = Release(self.charge_id, code)
        else:
            operation = Settle(self.charge_id, Usage(*self.checkpoint), Basis.UNKNOWN, code, self._stored())
        self.closed = await self._calls.close(operation) or self._computed(operation)

    def _stored(self) -> StoreResponse | None:
        if self._keyed_request is None or self._render is None:
            return None
        return StoreResponse(self._keyed_request.name(self._caller.user_id), self._render)

    def _computed(self, operation: Settle | Release) -> ClosedCharge:
        """The closed charge as far as it is known without the ledger's answer."""
        if isinstance(operation, Release):
            return ClosedCharge(self.charge_id, Basis.NONE, Usage(0, 0), 0, None, overrun=False)
        meter, usage = self.terms.meter, operation.usage
        return ClosedCharge(
            self.charge_id, operation.basis, usage, meter.tokens(usage), meter.micro_usd(usage), overrun=False
        )
