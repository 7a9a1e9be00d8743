"""The invariants of a charge: its own columns, and its entries. No I/O: `charges.py` reads the rows."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from tollkeeper.quota.audit.costs import RECOVERED
from tollkeeper.quota.audit.facts import (
    NO_WINDOW,
    WITHOUT_NAME,
    ChargeFacts,
    EntryFacts,
    Values,
    WindowFacts,
    Windows,
    counts_for,
    value_of,
)
from tollkeeper.quota.audit.problems import Fault, Problem
from tollkeeper.quota.audit.replay import is_month_of
from tollkeeper.quota.rules.charge_row import requests_cost
from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind, Unit

_RESERVE, _ADJUST, _REFUND = EntryKind.RESERVE.value, EntryKind.ADJUST.value, EntryKind.REFUND.value
_CLOSING_KINDS = frozenset({EntryKind.SETTLE.value, EntryKind.RELEASE.value, EntryKind.EXPIRE.value})
_OPEN_STATES = frozenset({ChargeState.RESERVED.value, ChargeState.DISPATCHED.value})
_window_of, _place_of = attrgetter("window_id"), attrgetter("window_id", "sequence")


def charge_problems(charge: ChargeFacts, entries: Sequence[Values], windows: Windows) -> Iterator[Problem]:
    """What is wrong with a charge, given its entries in any order, and their windows."""
    for what in _contradictions(charge):
        yield Problem(Fault.CHARGE, f"charge {charge.id}", what)
    if not entries and charge.basis != Basis.CACHE:
        yield Problem(Fault.CHARGE, f"charge {charge.id}", "it has no entries")
    if _has_plain_holds(charge, entries, windows):
        return
    facts = sorted(map(EntryFacts._make, entries), key=_place_of)
    for window_id, window_entries in groupby(facts, key=_window_of):
        window = windows.get((charge.tenant_id, window_id), NO_WINDOW)
        for what in _window_problems(charge, window, list(window_entries)):
            yield Problem(Fault.CHARGE, f"charge {charge.id} in window {window_id}", what)


def _has_plain_holds(charge: ChargeFacts, entries: Sequence[Values], windows: Windows) -> bool:
    """Whether a closed charge has one reserve and one end in each of its windows, and nothing is wrong with them. So
    have nearly all charges, and `_window_problems` takes five times as long. It decides if this is false, which it also
    is if the entries are not in the order of kinds and windows.
    """
    if len(entries) % 2 or charge.closed_ms is None or charge.adjusted or charge.refunded:
        return False
    tenant_id, month, closed_by = charge.tenant_id, charge.month, charge.closed_by
    reserves, ends = entries[: len(entries) // 2], entries[len(entries) // 2 :]
    if entries and reserves[0][5] != _RESERVE:
        reserves, ends = ends, reserves
    before = 0
    for reserve, end in zip(reserves, ends, strict=True):
        _, month_1, _, window_id, _, kind_1, settled_1, pending_1, forgiven_1 = reserve
        _, month_2, _, window_id_2, _, kind_2, settled_2, pending_2, forgiven_2 = end
        window = windows.get((tenant_id, window_id), NO_WINDOW)
        if not (
            before < window_id == window_id_2
            and kind_1 == _RESERVE
            and kind_2 == closed_by
            and month_1 == month_2 == month
            and pending_1 == -pending_2
            and (pending_1, settled_1 + settled_2, forgiven_1 + forgiven_2) == _amounts_in(window.unit, charge)
            and _is_window_of(charge, window)
        ):
            return False
        before = window_id
    return closed_by in _CLOSING_KINDS


def _is_window_of(charge: ChargeFacts, window: WindowFacts) -> bool:
    if window.tenant_id != charge.tenant_id or window.user_id not in (None, charge.user_id):
        return False
    if window.kind in WITHOUT_NAME:
        return window.value == ""
    return counts_for(charge, window.kind, window.subject) and window.value == value_of(
        charge, window.kind, window.subject
    )


def orphan_problem(entry: EntryFacts) -> Problem:
    """The problem of an entry whose source is a charge that there is not."""
    where, what = f"window {entry.window_id}", f"entry {entry.sequence} ({entry.kind} by {entry.source_id})"
    return Problem(Fault.ENTRY, where, f"{what} belongs to no charge")


def _contradictions(charge: ChargeFacts) -> Iterator[str]:
    """Where the columns of a charge contradict each other."""
    is_open = charge.state in _OPEN_STATES
    if not is_month_of(charge.month, charge.id):
        yield f"it is in month {charge.month}, which is not its id's"
    if is_open != (charge.closed_ms is None) or is_open != (charge.closed_by is None):
        yield f"it is {charge.state}, but closed_ms or closed_by contradicts that"
    if charge.state == ChargeState.RELEASED and charge.cost_tokens:
        yield f"it is released, but costs {charge.cost_tokens} tokens"
    above_tokens = charge.cost_tokens > charge.held_tokens
    above_money = (charge.cost_micro_usd or 0) > (charge.held_micro_usd or 0)
    if (above_tokens or above_money) and not charge.overrun:
        yield "it cost more than was held, but is not flagged as an overrun"


def _window_problems(charge: ChargeFacts, window: WindowFacts, entries: Sequence[EntryFacts]) -> Iterator[str]:
    """Compare a charge with its entries in one window."""
    if window.tenant_id != charge.tenant_id or window.user_id not in (None, charge.user_id):
        yield "the window is another user's or tenant's"
    elif (
        not counts_for(charge, window.kind, window.subject)
        or value_of(charge, window.kind, window.subject) != window.value
    ):
        yield f"the window is of another {window.kind}"
    yield from _amount_problems(entries, *_amounts_in(window.unit, charge))
    kinds = [entry.kind for entry in entries]
    expected_counts = {_RESERVE: 1, _ADJUST: int(charge.adjusted), _REFUND: int(charge.refunded)}
    for kind, count in expected_counts.items():
        if kinds.count(kind) != count:
            yield f"it has {kinds.count(kind)} entries of kind {kind}, the charge has {count}"
    closing = [kind for kind in kinds if kind in _CLOSING_KINDS]
    yield from _closing_problems(charge, closing, sum(entry.pending for entry in entries))
    for entry in entries:
        if entry.month != charge.month:
            yield f"entry {entry.sequence} is in month {entry.month}, the charge in month {charge.month}"


def _amounts_in(unit: str | None, charge: ChargeFacts) -> tuple[int, int, int]:
    """What a charge held, cost and was forgiven in a window of this unit."""
    slot = 0 if charge.error == RECOVERED else 1
    match unit:
        case Unit.TOKENS:
            return charge.held_tokens, charge.cost_tokens, charge.forgiven_tokens
        case Unit.REQUESTS:
            return slot, requests_cost(charge.basis, refunded=charge.refunded), 0
        case Unit.CONCURRENCY:
            return slot, 0, 0
        case _:
            return charge.held_micro_usd or 0, charge.cost_micro_usd or 0, charge.forgiven_micro_usd or 0


def _amount_problems(entries: Sequence[EntryFacts], held: int, cost: int, forgiven: int) -> Iterator[str]:
    """Compare what a charge held and cost in one window with its entries."""
    settled_sum = forgiven_sum = 0
    for entry in entries:
        kind = entry.kind
        forgiven_sum += entry.forgiven
        if kind != _REFUND:
            settled_sum += entry.settled
        elif entry.settled != -settled_sum:
            yield f"{-entry.settled} were refunded, but its entries had settled {settled_sum}"
        if kind == _RESERVE and entry.pending != held:
            yield f"its reserve is of {entry.pending}, the charge has {held}"
    if settled_sum != cost:
        yield f"its entries settle {settled_sum}, the charge has {cost}"
    if forgiven_sum != forgiven:
        yield f"its entries forgive {forgiven_sum}, the charge has {forgiven}"


def _closing_problems(charge: ChargeFacts, closing: list[str], pending: int) -> Iterator[str]:
    """Compare the state of a charge with the entries that end its hold. `pending` is the rest of the hold."""
    if charge.closed_ms is None:
        if closing:
            yield f"the charge is open, but its hold has ended ({', '.join(closing)})"
    elif len(closing) != 1:
        yield f"the charge is closed, but its hold has {len(closing)} ends; {pending} are pending"
    elif closing[0] != charge.closed_by:
        yield f"its hold ended by {closing[0]}, the charge has {charge.closed_by}"
    elif pending:
        yield f"the charge is closed, but {pending} of its hold are pending"
