"""Two calls that are admitted together: the second reads the answer of the first. No I/O.

Both are made for one request, one after the other, while the first charge is open. So the pair takes one slot of a
quota of concurrency: that of the first.
"""

from collections.abc import Sequence

from tollkeeper.chat import Usage
from tollkeeper.errors import QuotaExceeded, QuotaHeld, QuotaRefusal
from tollkeeper.quota.rules.balances import has_token_quota
from tollkeeper.quota.rules.calls import Balance, LinkedTerms, Terms, Unenforced
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.models import LINKED_SURFACES, Basis, ChargeState, EntryKind, Unit
from tollkeeper.quota.rules.page import Page, WindowHold, WindowRow
from tollkeeper.quota.rules.room import (
    MostOutput,
    hold_amount,
    refusal_by,
    require_own_quota,
    require_price,
    unenforced_refusals,
)
from tollkeeper.quota.rules.settlement import close


def held_windows(surface: str, windows: list[WindowRow]) -> list[WindowRow]:
    """Those of the windows that a call on this surface holds on: all, but for a second call, which takes no slot."""
    if surface not in LINKED_SURFACES:
        return windows
    return [window for window in windows if window.quota.key.unit is not Unit.CONCURRENCY]


def fit_both(
    windows: list[WindowRow], terms: Terms, linked: LinkedTerms, now_ms: int
) -> tuple[int, list[WindowHold], list[WindowHold]]:
    """The output that the windows grant the first call, if the second is made, too; and what each of them holds.

    Raises QuotaExceeded, QuotaHeld.
    """
    require_own_quota(windows, terms)
    granted, tightest = terms.wanted_output, None
    for window in windows:
        if window.report_only:
            continue
        for one in (terms, linked.terms):
            require_price(window, one)
        fitting = most_output(terms, linked, window.quota.key.unit, window.granted - window.settled)
        if fitting < granted:
            granted, tightest = fitting, window
    if tightest is not None and granted < terms.least_output:
        raise refusal_of_both(QuotaExceeded, tightest, terms, linked, terms.least_output, now_ms)
    holds, linked_holds = [], []
    for window in windows:
        first, second = amounts(terms, linked, window.quota.key.unit, granted)
        if window.settled + window.pending + first + second > window.granted and not window.report_only:
            raise refusal_of_both(QuotaHeld, window, terms, linked, granted, now_ms)
        holds.append(WindowHold(window, first))
        if window.quota.key.unit is not Unit.CONCURRENCY:
            linked_holds.append(WindowHold(window, second))
    return granted, holds, linked_holds


def unenforced_for_both(
    windows: list[WindowRow], terms: Terms, linked: LinkedTerms, granted_output: int
) -> tuple[Unenforced, ...]:
    """What those of the windows that only report would have answered both calls."""
    return unenforced_refusals(
        windows,
        granted_output,
        terms.least_output,
        most_output_of_both(terms, linked),
        lambda unit, output: sum(amounts(terms, linked, unit, output)),
    )


def most_output_of_both(terms: Terms, linked: LinkedTerms) -> MostOutput:
    """The most output of the first call with which both fit."""
    is_priced = terms.meter.price is not None and linked.terms.meter.price is not None
    return lambda unit, room: most_output(terms, linked, unit, room) if is_priced or unit is not Unit.MICRO_USD else -1


def most_output(terms: Terms, linked: LinkedTerms, unit: Unit, room: int) -> int:
    """The most output, up to what is wanted, with which both calls fit `room`; negative if none does.

    Each cost is rounded up by itself, so it is searched for by halves: some 20 steps for a million tokens.
    """
    if sum(amounts(terms, linked, unit, 0)) > room:
        return -1
    low, high = 0, terms.wanted_output
    while low < high:
        middle = (low + high + 1) // 2
        if sum(amounts(terms, linked, unit, middle)) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def would_admit_both(terms: Terms, linked: LinkedTerms, own: Sequence[Balance], tenants: Sequence[Balance]) -> bool:
    """Whether both calls would be admitted now. `own` are the user's balances, `tenants` the tenant's."""
    balances = [balance for balance in (*own, *tenants) if not balance.report_only]
    if not has_token_quota(own):
        return False
    is_priced = all(one.meter.price is not None for one in (terms, linked.terms))
    if not is_priced and any(balance.unit is Unit.MICRO_USD for balance in balances):
        return False
    granted = min(most_output(terms, linked, balance.unit, balance.limit - balance.used) for balance in balances)
    if granted < terms.least_output:
        return False
    return all(sum(amounts(terms, linked, balance.unit, granted)) <= balance.remaining for balance in balances)


def release_linked(page: Page, charge_id: str | None) -> None:
    """Release the charge of a second call that was not started: the first has ended."""
    charge: ChargeRow | None = page.charges.get(charge_id) if charge_id is not None else None
    if charge is not None and charge.open and charge.state == ChargeState.RESERVED:
        close(page, charge, EntryKind.RELEASE, Basis.NONE, Usage(0, 0), "not_started")


def amounts(terms: Terms, linked: LinkedTerms, unit: Unit, output: int) -> tuple[int, int]:
    """What the first call holds of a quota in `unit`, if it is granted this output, and what the second holds."""
    first = hold_amount(terms, unit, output) or 0
    if unit is Unit.CONCURRENCY:
        return first, 0
    return first, hold_amount(linked.after(output), unit, linked.terms.wanted_output) or 0


def refusal_of_both(
    kind: type[QuotaRefusal], window: WindowRow, terms: Terms, linked: LinkedTerms, output: int, now_ms: int
) -> QuotaRefusal:
    """The refusal of a window that has no room for both calls, if the first is granted this output."""
    refusal = refusal_by(kind, window, terms, output, now_ms)
    refusal.needed = sum(amounts(terms, linked, window.quota.key.unit, output))
    return refusal
