"""A charge as the rules see it, and the columns of its row that are written."""

from dataclasses import dataclass, fields
from typing import assert_never

from tollkeeper.chat import Price
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Basis, Unit


@dataclass(slots=True)
class ChargeRow:
    """A charge as stored (see `models.Charge`): first the columns that a reserve sets, then those that closing sets."""

    id: str
    tenant_id: int
    month: int
    user_id: int
    surface: str
    provider: str
    model: str
    state: str
    weight_milli: int
    price_input: int | None
    price_cached: int | None
    price_output: int | None
    price_cache_write: int | None
    input_bound: int
    granted_output: int
    held_tokens: int
    held_micro_usd: int | None
    checkpoint_input: int
    checkpoint_output: int
    created_ms: int
    lease_ms: int
    key_id: str | None = None
    group_id: int | None = None
    tags: str | None = None
    conversation: str | None = None
    basis: str | None = None
    closed_by: str | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    cost_tokens: int = 0
    cost_micro_usd: int | None = None
    forgiven_tokens: int = 0
    forgiven_micro_usd: int | None = None
    overrun: bool = False
    adjusted: bool = False
    refunded: bool = False
    error: str | None = None
    closed_ms: int | None = None

    @property
    def open(self) -> bool:
        return self.closed_ms is None

    @property
    def meter(self) -> Meter:
        if self.price_input is None or self.price_cached is None or self.price_output is None:
            return Meter(self.weight_milli)
        price = Price(self.price_input, self.price_cached, self.price_output, self.price_cache_write)
        return Meter(self.weight_milli, price)

    def held(self, unit: Unit) -> int:
        """What it held of a quota in `unit`."""
        if unit is Unit.TOKENS:
            return self.held_tokens
        if unit is Unit.MICRO_USD:
            return self.held_micro_usd or 0
        if unit is Unit.REQUESTS or unit is Unit.CONCURRENCY:
            return 1
        assert_never(unit)

    def cost(self, unit: Unit) -> int:
        """What it has cost of a quota in `unit`, before a refund."""
        if unit is Unit.TOKENS:
            return self.cost_tokens
        if unit is Unit.MICRO_USD:
            return self.cost_micro_usd or 0
        if unit is Unit.REQUESTS:
            return requests_cost(self.basis, refunded=self.refunded)
        if unit is Unit.CONCURRENCY:
            return 0
        assert_never(unit)

    def forgiven(self, unit: Unit) -> int:
        """What is forgiven of its hold in a quota in `unit`."""
        if unit is Unit.TOKENS:
            return self.forgiven_tokens
        if unit is Unit.MICRO_USD:
            return self.forgiven_micro_usd or 0
        if unit is Unit.REQUESTS or unit is Unit.CONCURRENCY:
            return 0
        assert_never(unit)


def requests_cost(basis: str | None, *, refunded: bool) -> int:
    """What a charge costs of a quota in requests: 1, or 0 while it is open or if nothing was billed.

    Only what was billed can be refunded. A later adjustment keeps the cost that was given back, whatever its basis.
    """
    return int(refunded or (basis is not None and basis != Basis.NONE))


CHARGE_COLUMNS = tuple(column.name for column in fields(ChargeRow))
INSERTED_COLUMNS = CHARGE_COLUMNS[: CHARGE_COLUMNS.index("basis")]
"""The columns that a reserve inserts."""
UPDATED_COLUMNS = (
    "state",
    "checkpoint_input",
    "checkpoint_output",
    "lease_ms",
    *CHARGE_COLUMNS[len(INSERTED_COLUMNS) :],
)
"""The columns that later operations may update."""
