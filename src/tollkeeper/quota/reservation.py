"""The reservation of one call: entered once, and settled or released at its one exit."""

import time
from collections.abc import Awaitable, Callable
from types import TracebackType

import structlog

from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict, NotFound, ProviderError, TollkeeperError
from tollkeeper.principal import Principal
from tollkeeper.quota.in_flight import CallsInFlight
from tollkeeper.quota.rules.calls import LinkedCharge, LinkedTerms
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.jobs import JobResult
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import (
    ClosedCharge,
    Dispatch,
    Extend,
    Hold,
    Recover,
    Release,
    Replayed,
    Reserve,
    Settle,
    StoreResponse,
    Terms,
)
from tollkeeper.quota.time_sorted_ids import CHARGE_PREFIX, linked_id, new_id

log = structlog.get_logger("tollkeeper.ledger")

MAX_ERROR_LENGTH = 40
"""Characters of the error code in a charge."""
UNMEASURED_LEASE_SHARE = 1 / 30
"""The part of a lease for which a call must run before its checkpoint is measured. Shorter calls cost no measuring."""


class Reservation:
    """The hold of one call. `granted_output` is the output that it pays for, in tokens; `set_usage` sets the usage.

    Only the exit settles or releases. It settles a usage that was set. It releases a call whose failure proves that
    nothing was billed. Any other call is an unknown outcome, and is settled with its checkpoint.
    `checkpoint` is (input, received output) in tokens. Renewals of the lease update it with `measure`.
    """

    def __init__(
        self,
        calls: CallsInFlight,
        caller: Principal,
        terms: Terms,
        keyed_request: KeyedRequest | None = None,
        linked_terms: LinkedTerms | None = None,
    ) -> None:
        self._calls = calls
        self._caller = caller
        self._keyed_request = keyed_request
        self.terms = terms
        self.charge_id = new_id(CHARGE_PREFIX)
        self.linked = LinkedReservation(calls, caller, linked_terms, self.charge_id) if linked_terms else None
        """The second call, reserved in the same transaction. It is to be made within the block, after this one."""
        self.hold = Hold(self.charge_id, 0)
        self.checkpoint = (0, 0)
        self.closed: ClosedCharge | None = None
        self.replayed: Replayed | None = None
        """The stored response of an earlier call with the same key. Nothing is held then, and the exit does nothing."""
        self.on_lost: Callable[[], object] | None = None
        """Called if the charge is found closed while the call runs. Usage that is set later becomes an adjustment."""
        self.measure: Callable[[], Awaitable[tuple[int, int]]] | None = None
        """Returns the current checkpoint."""
        self.is_lost = False
        self.is_unsent = False
        """Whether nothing is sent to a provider yet. A call that ends meanwhile is released."""
        self.fallback_for: str | None = None
        """The model that was asked for, if a quota had no room for it, so that another one answers."""
        self.waited_s = 0.0
        """The seconds that its reserve has waited in the ledger's queue."""
        self._started_at = 0.0
        self._unbilled = False
        self._usage: Usage | None = None
        self._basis = Basis.UNKNOWN
        self._render: Callable[[ClosedCharge], StoredResponse | None] | None = None
        self._job_id: str | None = None
        self._job_result: JobResult | None = None

    @property
    def tenant_id(self) -> int:
        """The caller's tenant, which the charge belongs to."""
        return self._caller.tenant_id

    @property
    def granted_output(self) -> int:
        """The output that the hold pays for, in tokens."""
        return self.hold.granted_output

    @property
    def closed_charge(self) -> ClosedCharge:
        """How the charge was closed. Available after the block."""
        assert self.closed is not None
        return self.closed

    async def __aenter__(self) -> "Reservation":
        operation = Reserve(
            self.charge_id,
            self._caller,
            self.terms,
            self._calls.lease_ms,
            keyed_request=self._keyed_request,
            linked=self.linked.as_linked_charge if self.linked is not None else None,
        )
        try:
            result = await self._calls.reserve(self, operation, self.linked)
        finally:
            self.waited_s = operation.waited_s
        if isinstance(result, Hold):
            self._start_charge(result)
            if self.linked is not None:
                self.linked.take(result)
        else:
            self._set_replayed(result)
        return self

    def _set_replayed(self, replayed: Replayed) -> None:
        self.replayed = replayed
        self.hold = Hold(replayed.charge_id, 0, replayed.balances)
        money = self.terms.meter.micro_usd(Usage(0, 0))
        self.closed = ClosedCharge(
            replayed.charge_id, Basis.CACHE, Usage(0, 0), 0, money, overrun=False, balances=replayed.balances
        )

    def _start_charge(self, hold: Hold) -> None:
        self.hold, self.charge_id = hold, hold.charge_id
        self.checkpoint = (self.terms.input_bound, 0)
        self._started_at = time.monotonic()
        self.is_lost = self._unbilled = False
        self._usage, self._basis, self._render = None, Basis.UNKNOWN, None

    async def extend(self, terms: Terms, error_code: str) -> None:
        """Continue with another attempt, as a new charge, after an attempt that failed with nothing billed.

        Replaces `charge_id`, `terms`, `granted_output`, `hold` and `checkpoint`. Raises what entering raises. The
        previous charge is released even then, and the block can only be left or extended again. Raises LedgerConflict
        if a stored response is replayed.
        """
        if self.replayed is not None:
            raise LedgerConflict
        self._usage, self._unbilled = None, True
        operation = Extend(
            new_id(CHARGE_PREFIX, after=self.charge_id),
            self._caller,
            terms,
            self._calls.lease_ms,
            keyed_request=self._keyed_request,
            job_id=self._job_id,
            previous=self.charge_id,
            error=error_code[:MAX_ERROR_LENGTH],
        )
        hold = await self._calls.extend(self, operation)
        self.terms = terms
        self._start_charge(hold)

    def set_usage(self, usage: Usage, basis: Basis = Basis.PROVIDER) -> None:
        """Set the usage of the call, as reported by the provider or as counted (`basis`)."""
        self._usage, self._basis = usage, basis

    def complete_checkpoint(self) -> None:
        """The answer is complete, and the call goes on: from now on, the usage that was set is the checkpoint."""
        if self._usage is not None:
            self.measure = None
            self.checkpoint = (self._usage.input_tokens, self._usage.output_tokens)
            self._calls.store_checkpoint(self.charge_id, self)

    def store_response(self, render: Callable[[ClosedCharge], StoredResponse | None]) -> None:
        """Store the response under the call's key, if it has one, in the transaction that closes the charge.

        `render` must depend on the closed charge alone: it is called in another thread, perhaps more than once.
        """
        self._render = render

    async def update_checkpoint(self) -> None:
        """Measure the checkpoint, unless the call has only begun."""
        charge_id = self.charge_id
        unmeasured_s = self._calls.lease_ms / 1000 * UNMEASURED_LEASE_SHARE
        if self.measure is not None and time.monotonic() - self._started_at >= unmeasured_s:
            try:
                measured = await self.measure()
            except Exception:
                log.exception("ledger.checkpoint_failed", charge_id=charge_id)
            else:
                if charge_id == self.charge_id:
                    self.checkpoint = measured

    def mark_lost(self) -> None:
        """Called when the charge is found closed: its lease was over, and a sweep has expired it."""
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
            operation: Settle | Release = self._settle(self._usage, self._basis, code)
        elif self._unbilled or self.is_unsent or (isinstance(error, ProviderError) and not error.billed):
            operation = Release(self.charge_id, self.tenant_id, code, linked_id=self._linked_id)
        else:
            operation = self._settle(Usage(*self.checkpoint), Basis.UNKNOWN, code)
        try:
            self.closed = await self._calls.close(operation)
        except NotFound:
            assert isinstance(operation, Settle)
            self.closed = await self._recover(operation)
        self.closed = self.closed or self._expected_close(operation)
        if self.hold.would_refuse:
            self.closed = self.closed._replace(would_refuse=self.hold.would_refuse)

    def _settle(self, usage: Usage, basis: Basis, error_code: str | None) -> Settle:
        response = self._response_to_store()
        return Settle(
            self.charge_id,
            self.tenant_id,
            usage,
            basis,
            error_code,
            response,
            self._job_result,
            linked_id=self._linked_id,
        )

    @property
    def _linked_id(self) -> str | None:
        """The charge of the second call, if that was not started."""
        return self.linked.charge_id if self.linked is not None and not self.linked.is_started else None

    async def _recover(self, lost: Settle) -> ClosedCharge | None:
        """Book the call anew: the database was restored to a state from before its reserve."""
        log.warning("ledger.charge_recovered", charge_id=lost.charge_id)
        operation = Recover(lost.charge_id, self._caller, self.terms, self.granted_output, lost.usage, lost.basis)
        try:
            return await self._calls.close(operation)
        except NotFound:
            self._calls.recover_later(operation)
            return None

    def _response_to_store(self) -> StoreResponse | None:
        if self._keyed_request is None or self._render is None:
            return None
        return StoreResponse(self._keyed_request.name(self._caller), self._render)

    def _expected_close(self, operation: Settle | Release) -> ClosedCharge:
        """The closed charge as this process expects it, for a commit that is late."""
        if isinstance(operation, Release):
            return ClosedCharge(self.charge_id, Basis.NONE, Usage(0, 0), 0, None, overrun=False)
        meter, usage = self.terms.meter, operation.usage
        return ClosedCharge(
            self.charge_id, operation.basis, usage, meter.tokens(usage), meter.micro_usd(usage), overrun=False
        )


class LinkedReservation(Reservation):
    """The hold of a second call, which reads the answer of the first. The reserve of the first opens it.

    Entering dispatches its charge, and leaving settles or releases it. If it is not entered, the end of the first call
    releases it, in the same transaction.
    """

    def __init__(self, calls: CallsInFlight, caller: Principal, linked_terms: LinkedTerms, first_id: str) -> None:
        super().__init__(calls, caller, linked_terms.terms)
        self.charge_id = linked_id(first_id)
        self._linked_terms = linked_terms
        self.is_started = False

    @property
    def as_linked_charge(self) -> LinkedCharge:
        """The charge, as the reserve of the first call opens it."""
        return LinkedCharge(self.charge_id, self._linked_terms)

    def take(self, hold: Hold) -> None:
        """Take its charge and its terms, now that the output of the first call is granted. The first call runs."""
        if hold.linked is not None:
            self.charge_id = hold.linked.charge_id
        self.terms = self._linked_terms.after(hold.granted_output)
        self.checkpoint = (self.terms.input_bound, 0)

    async def __aenter__(self) -> "LinkedReservation":
        """Raises LedgerConflict if the charge is closed; Unauthenticated, after it is released; QuotaExceeded or
        QuotaHeld without room in windows that have begun since.
        """
        successor = new_id(CHARGE_PREFIX, after=self.charge_id)
        operation = Dispatch(self.charge_id, self.tenant_id, self._calls.lease_ms, self._caller, successor)
        self._start_charge(await self._calls.dispatch(self, operation))
        self.is_started = True
        return self
