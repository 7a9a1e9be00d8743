"""Recomputes the cost of a charge from its own row: its usage, price, weight and basis. No I/O."""

from collections.abc import Iterator
from functools import lru_cache

from tollkeeper.chat import Price, Usage
from tollkeeper.quota.audit.facts import ChargeFacts
from tollkeeper.quota.audit.problems import Fault, Problem
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Basis

_PROVIDER = Basis.PROVIDER.value
RECOVERED = "recovered"
"""The `error` of a charge that was booked anew because the database had lost it. It holds nothing."""

Costs = tuple[int, int]
"""Tokens and micro-USD."""


def cost_problems(charge: ChargeFacts) -> Iterator[Problem]:
    """The problem of a closed charge whose cost does not follow from its usage, if it has one."""
    if charge.closed_ms is None:
        return
    tokens, micro_usd = charge.cost_tokens, charge.cost_micro_usd or 0
    if charge.basis == _PROVIDER and _full_cost(charge, _usage(charge)) == (tokens, micro_usd):
        return
    possible = _possible_costs(charge)
    if (tokens, micro_usd) in possible:
        return
    if _is_unbounded(charge):
        full = _full_cost(charge, _usage(charge))
        if tokens <= full[0] and micro_usd <= full[1]:
            return
    expected = " or ".join(f"{cost[0]} tokens and {cost[1]} micro-USD" for cost in sorted(possible))
    what = f"it costs {tokens} tokens and {micro_usd} micro-USD; by its usage and the basis {charge.basis} it is "
    yield Problem(Fault.COST, f"charge {charge.id}", what + (expected or "undefined"))


def _possible_costs(charge: ChargeFacts) -> set[Costs]:
    """What the charge may cost. There are several where the row does not record which rule decided."""
    held = charge.held_tokens, charge.held_micro_usd or 0
    full = _full_cost(charge, _usage(charge))
    at_most_held = min(full[0], held[0]), min(full[1], held[1])
    match charge.basis:
        case Basis.NONE | Basis.CACHE:
            costs = {(0, 0)}
        case Basis.PROVIDER:
            costs = {full}
        case Basis.COUNTED:
            costs = {at_most_held}
        case Basis.UNKNOWN:
            costs = {at_most_held, held}
        case _:
            costs = set()
    if charge.adjusted and charge.refunded:  # an adjustment after the refund keeps the cost of the expiry
        at_expiry = _full_cost(charge, Usage(charge.checkpoint_input, charge.checkpoint_output))
        costs.add((min(at_expiry[0], held[0]), min(at_expiry[1], held[1])))
    return costs


def _is_unbounded(charge: ChargeFacts) -> bool:
    """Whether the bound of the cost is not stored: that of a recovered charge whose usage was not reported."""
    return charge.error == RECOVERED and charge.held_tokens == 0 and charge.basis in (Basis.COUNTED, Basis.UNKNOWN)


def _full_cost(charge: ChargeFacts, usage: Usage) -> Costs:
    meter = _make_meter(
        charge.weight_milli, charge.price_input, charge.price_cached, charge.price_output, charge.price_cache_write
    )
    return meter.tokens(usage), meter.micro_usd(usage) or 0


@lru_cache(maxsize=1_024)
def _make_meter(
    weight_milli: int, fresh: int | None, cached: int | None, output: int | None, cache_write: int | None
) -> Meter:
    if fresh is None or cached is None or output is None:
        return Meter(weight_milli, None)
    return Meter(weight_milli, Price(fresh, cached, output, cache_write))


def _usage(charge: ChargeFacts) -> Usage:
    return Usage(
        charge.input_tokens or 0,
        charge.output_tokens or 0,
        charge.cached_input_tokens or 0,
        charge.cache_write_tokens or 0,
    )
