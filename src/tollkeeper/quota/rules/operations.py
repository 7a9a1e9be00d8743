"""The operations of the ledger: one class per verb, with what it reads (`declare_reads`) and what it returns.

An operation that `must_commit` is retried until it commits, even if its caller no longer waits. The others can be
refused and withdrawn.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, NamedTuple

from tollkeeper.chat import Usage
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, KeyName, StoredResponse
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Basis, Unit
from tollkeeper.quota.rules.page import QuotaKey, ReadSet
from tollkeeper.quota.rules.windows import Period


class BatchOrder(IntEnum):
    """The order within a batch: closing a charge frees quota for a reserve, and a renewal prevents an expiry."""

    CLOSE = 0
    ADMINISTER = 1
    RESERVE = 2
    EXPIRE = 3


class Terms(NamedTuple):
    """The terms of a call: its price and its bounds. All bounds are in tokens, before the weight.

    The ledger grants between `least_output` and `wanted_output`. If they are equal, it grants all or refuses.
    """

    surface: str
    provider: str
    model: str
    meter: Meter
    input_bound: int
    wanted_output: int
    least_output: int


class Balance(NamedTuple):
    """A quota in its window, as shown to users. `used` is settled, `reserved` is held by calls in flight."""

    quota: str
    unit: Unit
    period: Period
    limit: int
    used: int
    reserved: int
    resets_ms: int | None

    @property
    def remaining(self) -> int:
        """What a further call can hold."""
        return max(0, self.limit - self.used - self.reserved)


class Hold(NamedTuple):
    """The hold of an admitted call: the output tokens that it pays for, and its balances with the hold included."""

    charge_id: str
    granted_output: int
    balances: tuple[Balance, ...] = ()


class Replayed(NamedTuple):
    """The response that is stored for an idempotency key, the charge of this replay (at no cost), and the balances."""

    charge_id: str
    balances: tuple[Balance, ...]
    response: StoredResponse


class ClosedCharge(NamedTuple):
    """How a charge ended. The costs are what was deducted."""

    charge_id: str
    basis: Basis
    usage: Usage
    cost_tokens: int
    cost_micro_usd: int | None
    overrun: bool
    balances: tuple[Balance, ...] = ()


class StoreResponse(NamedTuple):
    """Stores a response under a key in the transaction that closes the key's charge.

    `render` makes the response from the closed charge; None stores nothing. It is called whenever the operation is
    decided: in any thread, perhaps more than once.
    """

    name: KeyName
    render: Callable[[ClosedCharge], StoredResponse | None]


@dataclass(slots=True, eq=False)
class Reserve:
    """Hold on every quota that applies, or on none. Returns a `Hold`.

    If a response is stored for the `keyed_request`, nothing is held, and the result is `Replayed`.
    `dispatch=False` and `Dispatch` are for background jobs, which reserve long before they call the provider.
    """

    order: ClassVar[BatchOrder] = BatchOrder.RESERVE
    must_commit: ClassVar[bool] = False
    charge_id: str
    caller: Principal
    terms: Terms
    lease_ms: int
    dispatch: bool = True
    keyed_request: KeyedRequest | None = None

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        read_set.callers[self.caller.user_id] = self.caller.tenant_id
        if self.keyed_request is not None:
            read_set.keys.add(self.keyed_request.name(self.caller))
        if retried:
            read_set.charges[self.charge_id] = self.caller.tenant_id

    def undo(self) -> "Release":
        """The operation that reverts this one if the caller is gone before the result: nothing was sent."""
        return Release(self.charge_id, self.caller.tenant_id, error="caller_gone")


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


@dataclass(slots=True, eq=False)
class OfCharge:
    """An operation on a charge that exists: its id, and the tenant that it belongs to."""

    charge_id: str
    tenant_id: int

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        read_set.charges[self.charge_id] = self.tenant_id


@dataclass(slots=True, eq=False)
class Dispatch(OfCharge):
    """Record that a reserved call is about to be sent. Returns True to the first caller, while the hold is open."""

    order: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_commit: ClassVar[bool] = False
    lease_ms: int
    lease_until_ms: int | None = None
    """The lease that this operation wrote, by which it recognises its own write when it is retried."""

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        OfCharge.declare_reads(self, read_set, retried=retried)
        if not retried:
            self.lease_until_ms = None


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
class Settle(OfCharge):
    """Book the cost of a call. Returns a `ClosedCharge`.

    With basis `unknown`, `usage` is the checkpoint, and the rules decide what is forgiven.
    """

    order: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_commit: ClassVar[bool] = True
    usage: Usage
    basis: Basis
    error: str | None = None
    store_response: StoreResponse | None = None

    def declare_reads(self, read_set: ReadSet, *, retried: bool) -> None:
        OfCharge.declare_reads(self, read_set, retried=retried)
        if self.store_response is not None:
            read_set.keys.add(self.store_response.name)


@dataclass(slots=True, eq=False)
class Release(OfCharge):
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
        read_set.callers[self.caller.user_id] = self.caller.tenant_id
        read_set.charges[self.charge_id] = self.caller.tenant_id


@dataclass(slots=True, eq=False)
class Expire(OfCharge):
    """Close a charge whose lease is over. Returns whether it did."""

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


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Create a quota, or change its limit. The usage of the current window stays, and what was granted to it.

    `reason` replaces the operation's reason.
    """

    key: QuotaKey
    limit: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """Add to the current window of a quota. `reason` replaces the operation's reason."""

    key: QuotaKey
    amount: int
    reason: str | None = None


LimitChange = SetLimit | Grant


@dataclass(slots=True, eq=False)
class Administer:
    """Change several limits, all or none. Returns the balances after the changes, one per change.

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
Operation = Reserve | Dispatch | Renew | Settle | Release | Recover | Expire | Refund | Administer
Result = Hold | Replayed | ClosedCharge | bool | set[str] | int | tuple[Balance, ...] | None
