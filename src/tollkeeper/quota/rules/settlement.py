"""How a charge ends: once, and at most one late truth after it."""

from typing import NamedTuple

from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict
from tollkeeper.quota.rules.models import Basis, Kind, State, Unit
from tollkeeper.quota.rules.operations import Balance, ClosedCharge
from tollkeeper.quota.rules.page import ChargeRow, Page, WindowRow


class Costs(NamedTuple):
    """One cost, in each unit."""

    tokens: int
    micro_usd: int

    def of(self, unit: Unit) -> int:
        return self.tokens if unit is Unit.TOKENS else self.micro_usd


FORGIVEN_PERCENT = 5
"""Of a window's grant: how much of unknown outcomes the house carries before the user does."""


def close(page: Page, charge: ChargeRow, kind: Kind, basis: Basis, usage: Usage, error: str | None) -> ClosedCharge:
    """Bring a charge to its one terminal state.

    Found closed by the same verb, it answers as the first time; found expired, what comes now is the late truth.
    Raises LedgerConflict for anything else.
    """
    if charge.open:
        _close(page, charge, kind, basis, usage, error)
    elif charge.closed_by == Kind.EXPIRE and kind is not Kind.EXPIRE:
        if not charge.adjusted:
            _adjust(page, charge, basis, usage)
    elif charge.closed_by != kind:
        raise LedgerConflict
    return closed(page, charge)


def end_at_nothing(page: Page, charge: ChargeRow) -> None:
    """Close a charge that holds nothing: it was answered without the provider."""
    charge.state, charge.basis, charge.closed_by = str(State.SETTLED), str(Basis.CACHE), str(Kind.SETTLE)
    charge.closed_ms = page.now_ms
    _book(charge, Usage(0, 0), Costs(0, 0))
    page.change(charge)


def outcome_of_lapse(charge: ChargeRow) -> tuple[Basis, Usage]:
    """What is known of a charge whose process is gone."""
    if charge.state == State.RESERVED:
        return Basis.NONE, Usage(0, 0)
    return Basis.UNKNOWN, Usage(charge.checkpoint_input, charge.checkpoint_output)


def _close(page: Page, charge: ChargeRow, kind: Kind, basis: Basis, usage: Usage, error: str | None) -> None:
    forgiving = basis is Basis.UNKNOWN and (kind is Kind.EXPIRE or _may_forgive(page, charge, usage))
    costs = _costs(charge, basis, usage, forgiving=forgiving)
    for window, pending in page.holds[charge.id]:
        unit = window.quota.key.unit
        forgiven = charge.held(unit) - costs.of(unit) if forgiving else 0
        page.move(window, kind, charge.id, pending=-pending, settled=costs.of(unit), forgiven=forgiven)
    charge.state = str(State.RELEASED if basis is Basis.NONE else State.SETTLED)
    charge.basis, charge.closed_by, charge.closed_ms, charge.error = str(basis), str(kind), page.now_ms, error
    charge.overrun = costs.tokens > charge.held_tokens or costs.micro_usd > charge.held(Unit.MICRO_USD)
    _book(charge, usage, costs)
    if forgiving:
        charge.forgiven_tokens = charge.held_tokens - costs.tokens
        if charge.held_micro_usd is not None:
            charge.forgiven_micro_usd = charge.held_micro_usd - costs.micro_usd
    page.change(charge)


def _costs(charge: ChargeRow, basis: Basis, usage: Usage, *, forgiving: bool) -> Costs:
    """What the user pays: a report in full; a count at most the hold; the unknown, beyond the cap, the hold."""
    if basis is Basis.NONE:
        return Costs(0, 0)
    held = Costs(charge.held_tokens, charge.held_micro_usd or 0)
    if basis is Basis.UNKNOWN and not forgiving:
        return held
    meter = charge.meter
    costs = Costs(meter.tokens(usage), meter.micro_usd(usage) or 0)
    if basis is Basis.PROVIDER:
        return costs
    return Costs(min(costs.tokens, held.tokens), min(costs.micro_usd, held.micro_usd))


def _may_forgive(page: Page, charge: ChargeRow, usage: Usage) -> bool:
    """Whether the rest of an unknown outcome still fits the cap of the user's shortest token window."""
    shortest = _shortest_own_window(page, charge)
    rest = charge.held_tokens - min(charge.held_tokens, charge.meter.tokens(usage))
    return shortest.forgiven == 0 or (shortest.forgiven + rest) * 100 <= shortest.granted * FORGIVEN_PERCENT


def _shortest_own_window(page: Page, charge: ChargeRow) -> WindowRow:
    own = (hold.window for hold in page.holds[charge.id] if hold.window.quota.is_own_token_quota)
    return min(own, key=lambda window: window.quota.key.period.rank)


def _adjust(page: Page, charge: ChargeRow, basis: Basis, usage: Usage) -> None:
    """Book the late truth: the user pays it, what was forgiven shrinks by as much, the rest is overrun.

    A charge that was refunded stays refunded: its truth is noted, and costs nothing.
    """
    booked = Costs(charge.cost_tokens, charge.cost_micro_usd or 0)
    truth = booked if charge.refunded else _costs(charge, basis, usage, forgiving=True)
    more = {unit: truth.of(unit) - charge.cost(unit) for unit in Unit}
    unforgiven = {unit: min(charge.forgiven(unit), max(0, more[unit])) for unit in Unit}
    for window, _ in page.holds[charge.id]:
        unit = window.quota.key.unit
        page.move(window, Kind.ADJUST, charge.id, settled=more[unit], forgiven=-unforgiven[unit])
    _book(charge, usage, truth)
    charge.forgiven_tokens -= unforgiven[Unit.TOKENS]
    if charge.forgiven_micro_usd is not None:
        charge.forgiven_micro_usd -= unforgiven[Unit.MICRO_USD]
    charge.adjusted, charge.basis = True, str(basis)
    charge.overrun = any(more[unit] > unforgiven[unit] for unit in Unit)
    if charge.cost_tokens:
        charge.state = str(State.SETTLED)
    page.change(charge)


def _book(charge: ChargeRow, usage: Usage, costs: Costs) -> None:
    charge.input_tokens, charge.output_tokens = usage.input_tokens, usage.output_tokens
    charge.cached_input_tokens, charge.cache_write_tokens = usage.cached_input_tokens, usage.cache_write_tokens
    charge.cost_tokens = costs.tokens
    if charge.held_micro_usd is not None:
        charge.cost_micro_usd = costs.micro_usd


def closed(page: Page, charge: ChargeRow) -> ClosedCharge:
    """The end of a charge, with its windows as they stand now; those that are over only when there is no other."""
    windows = [hold.window for hold in page.holds[charge.id]]
    running = [window for window in windows if window.ends_ms is None or window.ends_ms > page.now_ms]
    usage = Usage(
        charge.input_tokens or 0,
        charge.output_tokens or 0,
        charge.cached_input_tokens or 0,
        charge.cache_write_tokens or 0,
    )
    return ClosedCharge(
        charge.id,
        Basis(charge.basis or Basis.NONE),
        usage,
        charge.cost_tokens,
        charge.cost_micro_usd,
        charge.overrun,
        tuple([balance(window) for window in running or windows]),
    )


def balance(window: WindowRow) -> Balance:
    """A window as people see it."""
    quota = window.quota
    return Balance(
        quota.name,
        quota.key.unit,
        quota.key.period,
        window.granted,
        window.settled,
        window.pending,
        window.ends_ms,
    )
