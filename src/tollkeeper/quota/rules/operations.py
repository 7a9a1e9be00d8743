"""What the ledger can be asked to do: one class per verb, with what it needs to see and what it answers.

An operation that `must_land` is retried until it does, whoever still listens; the others can be refused and withdrawn.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, NamedTuple

from tollkeeper.chat import Usage
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.keys import KeyedRequest, KeyName, StoredResponse
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Basis, Unit
from tollkeeper.quota.rules.page import QuotaKey, ReadSet
from tollkeeper.quota.rules.windows import Period

MIN_OUTPUT = 16
"""No call is clamped to fewer output tokens than this: a shorter answer helps nobody."""


class BatchOrder(IntEnum):
    """The order within a batch: what frees room comes before what takes it, what proves life before what expires."""

    CLOSE = 0
    ADMINISTER = 1
    RESERVE = 2
    EXPIRE = 3


class Terms(NamedTuple):
    """What a call asks for. All in tokens, before the weight.

    `least_output` equal to `wanted_output` means: in full or not at all.
    """

    surface: str
    provider: str
    model: str
    meter: Meter
    input_bound: int
    wanted_output: int
    least_output: int


class Balance(NamedTuple):
    """How a quota stands in its window, for people: `used` is settled, `reserved` is held by calls in flight."""

    quota: str
    unit: Unit
    period: Period
    limit: int
    used: int
    reserved: int
    resets_ms: int | None

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used - self.reserved)


class Held(NamedTuple):
    """A hold that was admitted, how much output it pays for, and its windows as they stand with it."""

    charge_id: str
    granted_output: int
    balances: tuple[Balance, ...] = ()


class Replayed(NamedTuple):
    """The answer that an idempotency key stands for, the charge of nothing that says so, and the caller's windows."""

    charge_id: str
    balances: tuple[Balance, ...]
    answer: StoredResponse


class ClosedCharge(NamedTuple):
    """How a charge ended. Costs are what was deducted."""

    charge_id: str
    basis: Basis
    usage: Usage
    cost_tokens: int
    cost_micro_usd: int | None
    overrun: bool
    balances: tuple[Balance, ...] = ()


class StoreResponse(NamedTuple):
    """Under which key to keep an answer, and how to make it from the end of the charge.

    `answer` is called with the decision, in whatever thread and as often as that is made; None keeps nothing.
    """

    name: KeyName
    answer: Callable[[ClosedCharge], StoredResponse | None]


@dataclass(slots=True, eq=False)
class Reserve:
    """Hold on every quota that applies, or on none. Answers `Held`.

    With a `keyed_request` for which a response is stored, nothing is held, and the answer is `Replayed`.
    """

    turn: ClassVar[BatchOrder] = BatchOrder.RESERVE
    must_land: ClassVar[bool] = False
    charge_id: str
    caller: Principal
    terms: Terms
    lease_ms: int
    dispatch: bool = True
    keyed_request: KeyedRequest | None = None

    def declare(self, needs: ReadSet, *, again: bool) -> None:
        needs.callers.add(self.caller.user_id)
        if self.keyed_request is not None:
            needs.keys.add(self.keyed_request.name(self.caller.user_id))
        if again:
            needs.charges.add(self.charge_id)

    def undone(self) -> "Release":
        """What takes it back when its caller is gone before the answer: nothing was sent."""
        return Release(self.charge_id, error="caller_gone")


@dataclass(slots=True, eq=False)
class Extend(Reserve):
    """Replace a charge whose attempt failed, with proof that nothing was billed, by one for the next attempt.

    `error` says why it failed. Refused, the `previous` charge is released all the same.
    """

    previous: str = field(kw_only=True)
    error: str | None = field(default=None, kw_only=True)

    def declare(self, needs: ReadSet, *, again: bool) -> None:
        Reserve.declare(self, needs, again=again)
        needs.charges.add(self.previous)


@dataclass(slots=True, eq=False)
class Dispatch:
    """Say that the first byte is about to go out. Answers True to the first who says so, while the hold stands."""

    turn: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_land: ClassVar[bool] = False
    charge_id: str
    lease_ms: int
    lease_until_ms: int | None = None
    """What it wrote when it was decided; so it knows its own work when it is run again."""

    def declare(self, needs: ReadSet, *, again: bool) -> None:
        needs.charges.add(self.charge_id)
        if not again:
            self.lease_until_ms = None


@dataclass(slots=True, eq=False)
class Renew:
    """Prove that calls are alive: id → checkpoint (input, received output). Answers the ids found closed."""

    turn: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_land: ClassVar[bool] = True
    checkpoints: dict[str, tuple[int, int]]
    lease_ms: int

    def declare(self, needs: ReadSet, *, again: bool) -> None:
        needs.charges.update(self.checkpoints)


@dataclass(slots=True, eq=False)
class Settle:
    """Book what a call cost. Answers `ClosedCharge`.

    With basis `unknown`, `usage` is the checkpoint, and forgiveness is decided under the lock.
    """

    turn: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_land: ClassVar[bool] = True
    charge_id: str
    usage: Usage
    basis: Basis
    error: str | None = None
    keep: StoreResponse | None = None

    def declare(self, needs: ReadSet, *, again: bool) -> None:
        needs.charges.add(self.charge_id)
        if self.keep is not None:
            needs.keys.add(self.keep.name)


@dataclass(slots=True, eq=False)
class Release:
    """Give a hold back: nothing was billed. Answers `ClosedCharge`, or None when there never was such a charge."""

    turn: ClassVar[BatchOrder] = BatchOrder.CLOSE
    must_land: ClassVar[bool] = True
    charge_id: str
    error: str | None = None

    def declare(self, needs: ReadSet, *, again: bool) -> None:
        needs.charges.add(self.charge_id)


@dataclass(slots=True, eq=False)
class Expire:
    """End a charge whose lease is over. Answers True when it did."""

    turn: ClassVar[BatchOrder] = BatchOrder.EXPIRE
    must_land: ClassVar[bool] = False
    charge_id: str

    def declare(self, needs: ReadSet, *, again: bool) -> None:
        needs.charges.add(self.charge_id)


@dataclass(slots=True, eq=False)
class Refund:
    """Give a settled charge's cost back, once. Answers the tokens given back."""

    turn: ClassVar[BatchOrder] = BatchOrder.ADMINISTER
    must_land: ClassVar[bool] = False
    charge_id: str
    actor: str
    reason: str
    again: bool = False

    def declare(self, needs: ReadSet, *, again: bool) -> None:
        needs.charges.add(self.charge_id)
        self.again = again


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Make a quota, or change its limit; the usage stays. `reason` stands in for the operation's own."""

    key: QuotaKey
    limit: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """Add to the current window of a quota. `reason` stands in for the operation's own."""

    key: QuotaKey
    amount: int
    reason: str | None = None


@dataclass(slots=True, eq=False)
class Administer:
    """Several changes of quotas, all or none. Answers the balances after it, one per act."""

    turn: ClassVar[BatchOrder] = BatchOrder.ADMINISTER
    must_land: ClassVar[bool] = False
    operation_id: str
    acts: tuple[SetLimit | Grant, ...]
    actor: str
    reason: str

    def declare(self, needs: ReadSet, *, again: bool) -> None:
        for act in self.acts:
            (needs.create if isinstance(act, SetLimit) else needs.quotas).add(act.key)
        if again:
            needs.sources.add(self.operation_id)


Operation = Reserve | Dispatch | Renew | Settle | Release | Expire | Refund | Administer
Result = Held | Replayed | ClosedCharge | bool | set[str] | int | tuple[Balance, ...] | None
