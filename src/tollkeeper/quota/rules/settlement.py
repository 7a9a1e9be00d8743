"""Closes charges: each once, with at most one adjustment after an expiry."""

from collections.abc import Iterable
from typing import NamedTuple, assert_never

from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind, Unit
from tollkeeper.quota.rules.operations import Balance, ClosedCharge, Unenforced
from tollkeeper.quota.rules.page import Page, WindowRow


class Costs(NamedTuple):
    """One cost, in each unit. Concurrency is only held, so it has none."""

    tokens: int
    micro_usd: int
    requests: int

    def of(self, unit: Unit) -> int:
        """The cost in `unit`."""
        if unit is Unit.TOKENS:
            return self.tokens
        if unit is Unit.MICRO_USD:
            return self.micro_usd
        if unit is Unit.REQUESTS:
            return self.requests
        if unit is Unit.CONCURRENCY:
            return 0
        assert_never(unit)


_BASES: dict[str | None, Basis] = {None: Basis.NONE, **{basis.value: basis for basis in Basis}}
"""A dictionary finds the member of a value in a fifth of the time that the class takes."""
MAX_FORGIVEN_PERCENT = 5
"""The share of a window's grant that is forgiven for unknown outcomes. Beyond it, they cost the user the hold."""


def close(
    page: Page, charge: ChargeRow, kind: EntryKind, basis: Basis, usage: Usage, error: str | None
) -> ClosedCharge:
    """Close a charge, and return how it ended.

    A charge that the same operation has closed is returned as it is. A charge that has expired is adjusted, once.
    Raises LedgerConflict if another operation has closed the charge.
    """
    if charge.open:
        _close(page, charge, kind, basis, usage, error)
    elif charge.closed_by == EntryKind.EXPIRE and kind is not EntryKind.EXPIRE:
        if not charge.adjusted:
            _adjust(page, charge, basis, usage)
    elif charge.closed_by != kind:
        raise LedgerConflict
    return closed_charge(page, charge)


def close_without_cost(page: Page, charge: ChargeRow) -> None:
    """Close a charge whose call was answered without a provider. What it holds are requests."""
    for window, pending in page.holds[charge.id]:
        page.post(window, EntryKind.SETTLE, charge.id, charge.month, pending=-pending, settled=pending)
    charge.state, charge.basis, charge.closed_by = str(ChargeState.SETTLED), str(Basis.CACHE), str(EntryKind.SETTLE)
    charge.closed_ms = page.now_ms
    _book(charge, Usage(0, 0), Costs(0, 0, requests=0))
    page.mark_changed(charge)


def close_recovered(page: Page, charge: ChargeRow, basis: Basis, usage: Usage, held: Usage) -> ClosedCharge:
    """Book the cost of a charge that the database had lost and that holds nothing. `held` is what it held before.

    Usage that was not reported costs at most that.
    """
    meter = charge.meter
    costs = Costs(meter.tokens(usage), meter.micro_usd(usage) or 0, requests=1)
    if basis is not Basis.PROVIDER:
        most = Costs(meter.tokens(held), meter.micro_usd(held) or 0, requests=1)
        costs = Costs(min(costs.tokens, most.tokens), min(costs.micro_usd, most.micro_usd), requests=1)
    for window, _ in page.holds[charge.id]:
        page.post(window, EntryKind.SETTLE, charge.id, charge.month, settled=costs.of(window.quota.key.unit))
    charge.state, charge.basis, charge.closed_by = str(ChargeState.SETTLED), str(basis), str(EntryKind.SETTLE)
    charge.closed_ms, charge.error = page.now_ms, "recovered"
    _book(charge, usage, costs)
    charge.overrun = costs.tokens > 0 or costs.micro_usd > 0
    page.mark_changed(charge)
    return closed_charge(page, charge)


def usage_at_expiry(charge: ChargeRow) -> tuple[Basis, Usage]:
    """The basis and usage of a charge whose process stopped renewing it. Without a dispatch, nothing was billed."""
    if charge.state == ChargeState.RESERVED:
        return Basis.NONE, Usage(0, 0)
    return Basis.UNKNOWN, Usage(charge.checkpoint_input, charge.checkpoint_output)


def _close(page: Page, charge: ChargeRow, kind: EntryKind, basis: Basis, usage: Usage, error: str | None) -> None:
    forgive = basis is Basis.UNKNOWN and (kind is EntryKind.EXPIRE or _may_forgive(page, charge, usage))
    costs = _costs(charge, basis, usage, forgive=forgive)
    for window, pending in page.holds[charge.id]:
        unit = window.quota.key.unit
        forgiven = _unspent(charge, unit, costs) if forgive else 0
        page.post(window, kind, charge.id, charge.month, pending=-pending, settled=costs.of(unit), forgiven=forgiven)
    charge.state = str(ChargeState.RELEASED if basis is Basis.NONE else ChargeState.SETTLED)
    charge.basis, charge.closed_by, charge.closed_ms, charge.error = str(basis), str(kind), page.now_ms, error
    charge.overrun = costs.tokens > charge.held_tokens or costs.micro_usd > charge.held(Unit.MICRO_USD)
    _book(charge, usage, costs)
    if forgive:
        charge.forgiven_tokens = charge.held_tokens - costs.tokens
        if charge.held_micro_usd is not None:
            charge.forgiven_micro_usd = charge.held_micro_usd - costs.micro_usd
    page.mark_changed(charge)


def _costs(charge: ChargeRow, basis: Basis, usage: Usage, *, forgive: bool) -> Costs:
    """The costs for the user.

    Reported usage costs its full price, counted usage at most the hold. An unknown outcome costs its checkpoint, at
    most the hold, or the whole hold unless `forgive`.
    """
    if basis is Basis.NONE:
        return Costs(0, 0, requests=0)
    held = Costs(charge.held_tokens, charge.held_micro_usd or 0, requests=1)
    if basis is Basis.UNKNOWN and not forgive:
        return held
    meter = charge.meter
    costs = Costs(meter.tokens(usage), meter.micro_usd(usage) or 0, requests=1)
    if basis is Basis.PROVIDER:
        return costs
    return Costs(min(costs.tokens, held.tokens), min(costs.micro_usd, held.micro_usd), requests=1)


def _unspent(charge: ChargeRow, unit: Unit, costs: Costs) -> int:
    """What is forgiven of a hold, where the rest of it is. A call counts whole, and its slot is only given back."""
    if unit is Unit.TOKENS or unit is Unit.MICRO_USD:
        return charge.held(unit) - costs.of(unit)
    if unit is Unit.REQUESTS or unit is Unit.CONCURRENCY:
        return 0
    assert_never(unit)


def _may_forgive(page: Page, charge: ChargeRow, usage: Usage) -> bool:
    """Whether what is left of the hold fits the cap of the user's shortest token window. The first time always does."""
    shortest = _shortest_own_window(page, charge)
    rest = charge.held_tokens - min(charge.held_tokens, charge.meter.tokens(usage))
    return shortest.forgiven == 0 or (shortest.forgiven + rest) * 100 <= shortest.granted * MAX_FORGIVEN_PERCENT


def _shortest_own_window(page: Page, charge: ChargeRow) -> WindowRow:
    own = (hold.window for hold in page.holds[charge.id] if hold.window.quota.is_own_token_quota)
    return min(own, key=lambda window: window.quota.key.period.rank)


def _adjust(page: Page, charge: ChargeRow, basis: Basis, usage: Usage) -> None:
    """Book usage that became known after the expiry.

    Once the cost is known, nothing of it is forgiven: what was forgiven is taken back. An outcome that is still unknown
    takes back only what it costs more. A cost above what was settled and forgiven is an overrun. A refunded charge
    stays refunded: its usage is recorded at no cost, and what was forgiven stays.
    """
    booked = Costs(charge.cost_tokens, charge.cost_micro_usd or 0, charge.cost(Unit.REQUESTS))
    known = booked if charge.refunded else _costs(charge, basis, usage, forgive=True)
    more = {unit: known.of(unit) - charge.cost(unit) for unit in Unit}
    is_overrun = any(more[unit] > charge.forgiven(unit) for unit in Unit)
    if basis is Basis.UNKNOWN or charge.refunded:
        unforgiven = {unit: min(charge.forgiven(unit), max(0, more[unit])) for unit in Unit}
    else:
        unforgiven = {unit: charge.forgiven(unit) for unit in Unit}
    for window, _ in page.holds[charge.id]:
        unit = window.quota.key.unit
        page.post(window, EntryKind.ADJUST, charge.id, charge.month, settled=more[unit], forgiven=-unforgiven[unit])
    _book(charge, usage, known)
    charge.forgiven_tokens -= unforgiven[Unit.TOKENS]
    if charge.forgiven_micro_usd is not None:
        charge.forgiven_micro_usd -= unforgiven[Unit.MICRO_USD]
    charge.adjusted, charge.basis = True, str(basis)
    charge.overrun = is_overrun
    if charge.cost_tokens:
        charge.state = str(ChargeState.SETTLED)
    page.mark_changed(charge)


def _book(charge: ChargeRow, usage: Usage, costs: Costs) -> None:
    charge.input_tokens, charge.output_tokens = usage.input_tokens, usage.output_tokens
    charge.cached_input_tokens, charge.cache_write_tokens = usage.cached_input_tokens, usage.cache_write_tokens
    charge.cost_tokens = costs.tokens
    if charge.held_micro_usd is not None:
        charge.cost_micro_usd = costs.micro_usd


def closed_charge(page: Page, charge: ChargeRow) -> ClosedCharge:
    """How a charge ended, with the current balances of its windows. Past windows only if all of them are past."""
    windows = [hold.window for hold in page.holds[charge.id]]
    running = [window for window in windows if window.ends_ms is None or window.ends_ms > page.now_ms]
    return closed_with(charge, running or windows)


def closed_with(
    charge: ChargeRow, windows: Iterable[WindowRow], would_refuse: tuple[Unenforced, ...] = ()
) -> ClosedCharge:
    """How a charge ended, with the balances of these windows, and what would have refused it."""
    usage = Usage(
        charge.input_tokens or 0,
        charge.output_tokens or 0,
        charge.cached_input_tokens or 0,
        charge.cache_write_tokens or 0,
    )
    return ClosedCharge(
        charge.id,
        _BASES[charge.basis],
        usage,
        charge.cost_tokens,
        charge.cost_micro_usd,
        charge.overrun,
        tuple([balance_of(window) for window in windows]),
        charge.forgiven_tokens,
        charge.forgiven_micro_usd,
        would_refuse,
        charge.group_id,
    )


def balance_of(window: WindowRow) -> Balance:
    """The balance of a window, as shown to users."""
    quota = window.quota
    return Balance(
        quota.name,
        quota.key.unit,
        quota.key.period,
        window.granted,
        window.settled,
        window.pending,
        window.ends_ms,
        window.report_only,
        quota.fallback_model,
        window.rolled,
        quota.rollover_cap,
    )
