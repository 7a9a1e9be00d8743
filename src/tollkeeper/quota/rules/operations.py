"""The operations of the ledger: one class per verb, with what it reads (`declare_reads`) and what it returns.

An operation that `must_commit` is retried until it commits, even if no caller waits. Others can be refused, withdrawn.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from tollkeeper.chat import Usage
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.batch_order import BatchOrder as BatchOrder
from tollkeeper.quota.rules.calls import Balance as Balance
from tollkeeper.quota.rules.calls import ClosedCharge as ClosedCharge
from tollkeeper.quota.rules.calls import Hold as Hold
from tollkeeper.quota.rules.calls import LinkedCharge
from tollkeeper.quota.rules.calls import Replayed as Replayed
from tollkeeper.quota.rules.calls import StoreResponse as StoreResponse
from tollkeeper.quota.rules.calls import Terms as Terms
from tollkeeper.quota.rules.calls import Unenforced as Unenforced
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.rules.jobs import JobResult
from tollkeeper.quota.rules.limit_changes import LimitChange, SetLimit
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.page import ReadSet
from tollkeeper.quota.time_sorted_ids import linked_id


@dataclass(slots=True, eq=False)
class Reserve:
    """Hold on every quota that applies, or on none. Returns a `Hold`.

    If a response is stored for the `keyed_request`, nothing is held, and the result is `Replayed`.
    With `dispatch=False` nothing is sent yet: background jobs reserve long before they call the provider. Quotas per
    minute and per hour are then held by `Dispatch`.
    """

    order: ClassVar[BatchOrder] = BatchOrder.RESERVE
    must_commit: ClassVar[bool] = False
    charge_id: str
    caller: Principal
    terms: Terms
    lease_ms: int
    dispatch: bool = True
    keyed_request: KeyedRequest | None = None
    job_id: str | None = None
    """The job that the charge is for: it becomes pending, or processing if the call is dispatched."""
    linked: LinkedCharge | None = None
    """A second charge, for the call that reads the answer of this one: both are admitted, or none."""
    waited_s: float = 0.0
    """The seconds that it has waited in the queue, until its batch started."""
    would_refuse: tuple[Unenforced, ...] = ()
    """What its hold says of quotas that only report, for a retry."""

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        read_set.add_caller(self.caller)
        if self.keyed_request is not None:
            read_set.keys.add(self.keyed_request.name(self.caller))
        if retried:
            read_set.charges[self.charge_id] = self.caller.tenant_id
            if self.linked is not None:
                read_set.charges[self.linked.charge_id] = self.caller.tenant_id

    def undo(self) -> "Release":
        """The operation that reverts this one if the caller is gone before the result: nothing was sent."""
        linked_id = self.linked.charge_id if self.linked is not None else None
        return Release(self.charge_id, self.caller.tenant_id, error="caller_gone", linked_id=linked_id)


@dataclass(slots=True, eq=False)
class Extend(Reserve):
    """Release the `previous` charge, whose attempt failed with nothing billed, and reserve for the next attempt.

    `error` is the code of the failure. The previous charge is released even if the reserve is refused.
    """

    previous: str = field(kw_only=True)
    error: str | None = field(default=None, kw_only=True)

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        Reserve.declare_reads(self, read_set, retried=retried)
        read_set.charges[self.previous] = self.caller.tenant_id


class StartJob(Reserve):
    """Reserve for a pending job that has no charge yet, and whose call is about to be sent. The job becomes processing.

    Raises LedgerConflict unless the job waits: another operation has started it, or it was ended.
    """

    __slots__ = ()

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        Reserve.declare_reads(self, read_set, retried=retried)
        assert self.job_id is not None
        read_set.waiting_jobs[self.job_id] = self.caller.tenant_id


class BookFree(Reserve):
    """Book a call that is answered without a provider, at no cost. Returns a `ClosedCharge`, which has held nothing.

    It changes the windows that count requests. It locks no other, so that the calls of a busy tenant do not wait for
    each other.
    """

    __slots__ = ()

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        read_set.add_reader(self.caller)
        if retried:
            read_set.charges[self.charge_id] = self.caller.tenant_id


@dataclass(slots=True, eq=False)
class OfCharge:
    """An operation on a charge that exists: its id, and the tenant that it belongs to."""

    charge_id: str
    tenant_id: int

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        read_set.charges[self.charge_id] = self.tenant_id


@dataclass(slots=True, eq=False)
class EndOfCharge(OfCharge):
    """An end of a call. The second charge `linked_id`, of which nothing was sent, is released with it."""

    linked_id: str | None = field(default=None, kw_only=True)

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        OfCharge.declare_reads(self, read_set, retried=retried)
        if self.linked_id is not None:
            read_set.charges[self.linked_id] = self.tenant_id


@dataclass(slots=True, eq=False)
class Dispatch(OfCharge):
    """Record that a reserved call is about to be sent. Returns a `Hold` to the first caller only.

    If the charge does not hold on the windows that apply now, or there are `terms`, those of another model, then it is
    released, and the charge `successor` holds on them by these or the same terms; so does the second charge with
    `is_pair`, which stays reserved, and has the same terms. The job, if any, is processing.
    """

    order: ClassVar[BatchOrder] = BatchOrder.RESERVE
    must_commit: ClassVar[bool] = False
    lease_ms: int
    caller: Principal
    successor: str
    job_id: str | None = None
    is_pair: bool = False
    terms: Terms | None = None
    lease_until_ms: int | None = None
    """The lease that this operation wrote, by which it recognises its own write when it is retried."""
    held_by: str = ""
    """The charge that it has dispatched."""
    would_refuse: tuple[Unenforced, ...] = ()

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        read_set.add_caller(self.caller)
        first_ids = [self.charge_id, self.successor] if retried else [self.charge_id]
        linked_ids = map(linked_id, first_ids) if self.is_pair else ()
        read_set.charges.update(dict.fromkeys([*first_ids, *linked_ids], self.tenant_id))
        self.lease_until_ms = self.lease_until_ms if retried else None

    def undo(self) -> "Withdraw":
        """The operation that reverts this one if the caller is gone before the result: nothing was sent."""
        return Withdraw(self.held_by, self.tenant_id, "caller_gone", self.lease_until_ms)


@dataclass(slots=True, eq=False)
class Withdraw(OfCharge):
    """Release a charge of which nothing was sent, and the second one of its pair: a reserved one, or one that was
    dispatched with exactly this lease. Returns whether it is released by this.
    """

    order: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_commit: ClassVar[bool] = False
    error: str
    lease_until_ms: int | None = None

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        OfCharge.declare_reads(self, read_set, retried=retried)
        read_set.charges[linked_id(self.charge_id)] = self.tenant_id


@dataclass(slots=True, eq=False)
class Renew:
    """Extend the leases of calls in flight: charge id → checkpoint (input, received output). Returns the closed ids."""

    order: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_commit: ClassVar[bool] = True
    checkpoints: dict[str, tuple[int, int]]
    tenants: dict[str, int]
    """Charge id → tenant id."""
    lease_ms: int

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        read_set.charges.update(self.tenants)


@dataclass(slots=True, eq=False)
class Settle(EndOfCharge):
    """Book the cost of a call. Returns a `ClosedCharge`.

    With basis `unknown`, `usage` is the checkpoint, and the rules decide what is forgiven.
    """

    order: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_commit: ClassVar[bool] = True
    usage: Usage
    basis: Basis
    error: str | None = None
    store_response: StoreResponse | None = None
    job_result: JobResult | None = None

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        EndOfCharge.declare_reads(self, read_set, retried=retried)
        if self.store_response is not None:
            read_set.keys.add(self.store_response.name)


@dataclass(slots=True, eq=False)
class Release(EndOfCharge):
    """Give a hold back: nothing was billed. Returns a `ClosedCharge`, or None if there is no such charge."""

    order: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_commit: ClassVar[bool] = True
    error: str | None = None


@dataclass(slots=True, eq=False)
class Recover:
    """Book a call anew whose charge the database has lost, because it was restored to an earlier state.

    The charge is marked `recovered`, and holds nothing. Returns a `ClosedCharge`.
    """

    order: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_commit: ClassVar[bool] = True
    charge_id: str
    caller: Principal
    terms: Terms
    granted_output: int
    usage: Usage
    basis: Basis

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        read_set.add_caller(self.caller)
        read_set.charges[self.charge_id] = self.caller.tenant_id


@dataclass(slots=True, eq=False)
class Expire(OfCharge):
    """Close a charge whose lease is over. Returns how it ended; None if it is closed, or its lease is not over."""

    order: ClassVar[BatchOrder] = BatchOrder.EXPIRE
    must_commit: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class Refund(OfCharge):
    """Give the cost of a settled charge back, once. Returns the tokens given back."""

    order: ClassVar[BatchOrder] = BatchOrder.ADMINISTER
    must_commit: ClassVar[bool] = False
    actor: str
    reason: str
    retried: bool = False

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        OfCharge.declare_reads(self, read_set, retried=retried)
        self.retried = retried


@dataclass(slots=True, eq=False)
class Administer:
    """Change several limits, all or none. Returns the balances after the changes, one per quota that is not removed.

    It may be repeated with the same id, by any process: then it only returns the balances.
    """

    order: ClassVar[BatchOrder] = BatchOrder.ADMINISTER
    must_commit: ClassVar[bool] = False
    operation_id: str
    changes: tuple[LimitChange, ...]
    actor: str
    reason: str

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        for change in self.changes:
            quotas = read_set.quotas_to_create if isinstance(change, SetLimit) else read_set.quotas
            quotas.add(change.key)
            read_set.sources[self.operation_id] = change.key.subject.tenant_id


Closing = Settle | Release | Recover
Undoable = Reserve | Dispatch
Operation = Undoable | Withdraw | Renew | Settle | Release | Recover | Expire | Refund | Administer
Result = Hold | Replayed | ClosedCharge | bool | set[str] | int | tuple[Balance, ...] | None
