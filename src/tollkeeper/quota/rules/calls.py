"""The terms of a call, and what the ledger returns for it."""

from collections.abc import Callable
from typing import NamedTuple

from tollkeeper.chat import Usage
from tollkeeper.quota.rules.idempotency_keys import KeyName, StoredResponse
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Basis, Unit, WhenSpent
from tollkeeper.quota.rules.windows import Period


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


class LinkedTerms(NamedTuple):
    """The terms of a second call, which reads the answer of the first. The `input_bound` of its `terms` is that without
    the answer; each token of output that the first is granted adds `input_per_output` tokens to it.
    """

    terms: Terms
    input_per_output: int

    def after(self, granted_output: int) -> Terms:
        """The terms of the second call, if the first is granted this output."""
        return self.terms._replace(input_bound=self.terms.input_bound + self.input_per_output * granted_output)


class LinkedCharge(NamedTuple):
    """The charge of a second call, which a reserve opens together with that of the first, or not at all."""

    charge_id: str
    terms: LinkedTerms


class Balance(NamedTuple):
    """A quota in its window, as shown to users. `used` is settled, `reserved` is held by calls in flight."""

    quota: str
    unit: Unit
    period: Period
    limit: int
    used: int
    reserved: int
    resets_ms: int | None
    report_only: bool = False
    """Whether the quota refuses no call, and only says which ones it would refuse."""
    fallback_model: str | None = None
    """The model that answers the calls for which the quota has no room."""
    rolled_over: int = 0
    """The part of the limit that was unused in the window before."""
    rollover_cap: int | None = None
    """How much of what is unused the next window gets, at most."""

    @property
    def remaining(self) -> int:
        """What a further call can hold."""
        return max(0, self.limit - self.used - self.reserved)

    @property
    def when_spent(self) -> WhenSpent:
        """What becomes of a call for which there is no room."""
        return WhenSpent.of(report_only=self.report_only, fallback_model=self.fallback_model)


class Unenforced(NamedTuple):
    """A refusal by a quota that only reports: the quota's name, and the code of the error that it would be."""

    quota: str
    code: str


class Hold(NamedTuple):
    """The hold of an admitted call: the output tokens that it pays for, and its balances with the hold included.
    `linked` is that of the second call, if there is one. `would_refuse` are the quotas that only report.
    """

    charge_id: str
    granted_output: int
    balances: tuple[Balance, ...] = ()
    linked: "Hold | None" = None
    would_refuse: tuple[Unenforced, ...] = ()


class Replayed(NamedTuple):
    """The response that is stored for an idempotency key, the charge of this replay (at no cost), and the balances."""

    charge_id: str
    balances: tuple[Balance, ...]
    response: StoredResponse


class ClosedCharge(NamedTuple):
    """How a charge ended. The costs are what was deducted; what was forgiven is the rest of a hold whose outcome is
    unknown. `would_refuse` is as in the hold.
    """

    charge_id: str
    basis: Basis
    usage: Usage
    cost_tokens: int
    cost_micro_usd: int | None
    overrun: bool
    balances: tuple[Balance, ...] = ()
    forgiven_tokens: int = 0
    forgiven_micro_usd: int | None = None
    would_refuse: tuple[Unenforced, ...] = ()
    group_id: int | None = None
    """The group that the call counts for."""


class StoreResponse(NamedTuple):
    """Stores a response under a key in the transaction that closes the key's charge.

    `render` makes the response from the closed charge; None stores nothing. It is called whenever the operation is
    decided: in any thread, perhaps more than once.
    """

    name: KeyName
    render: Callable[[ClosedCharge], StoredResponse | None]
