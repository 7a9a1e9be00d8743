"""How much output the windows have room for, what a call then holds in each, and how a call without room is refused."""

from collections.abc import Callable, Iterable, Sequence

from tollkeeper.chat import Usage
from tollkeeper.errors import QuotaExceeded, QuotaHeld, QuotaRefusal
from tollkeeper.quota.rules.balances import has_token_quota
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance, Terms, Unenforced
from tollkeeper.quota.rules.page import WindowHold, WindowRow

MostOutput = Callable[[Unit, int], int]
"""Returns the most output with which a call fits a room in a unit; negative if its input alone does not fit."""
HELD_RETRY_S = 1
"""The `retry_after_s` of a refusal by the holds of calls in flight, which end soon."""


def fit(windows: list[WindowRow], terms: Terms, now_ms: int) -> tuple[int, list[WindowHold]]:
    """The output that the windows grant, and what the call then holds in each. Raises QuotaExceeded, QuotaHeld."""
    granted_output = _grant_output(windows, terms, now_ms)
    return granted_output, _window_holds(windows, terms, granted_output, now_ms)


def fit_request(windows: list[WindowRow], terms: Terms, now_ms: int) -> list[WindowHold]:
    """What one answer without a provider holds in each of these windows, which count requests.

    Raises QuotaExceeded, QuotaHeld.
    """
    for window in windows:
        if window.settled >= window.granted and not window.report_only:
            raise refusal_by(QuotaExceeded, window, terms, 0, now_ms)
    return _window_holds(windows, terms, 0, now_ms)


def _grant_output(windows: list[WindowRow], terms: Terms, now_ms: int) -> int:
    """The output that fits every window when no other call is in flight, at most the wanted output. Windows that only
    report do not count.

    Raises QuotaExceeded, with the tightest window, if that is below `least_output`, or if the user has no token quota
    of their own.
    """
    require_own_quota(windows, terms)
    granted, tightest = terms.wanted_output, None
    for window in windows:
        if window.report_only:
            continue
        unit = window.quota.key.unit
        require_price(window, terms)
        fitting = _max_output(terms, unit, window.granted, window.settled)
        if fitting < granted:
            granted, tightest = fitting, window
    if tightest is not None and granted < terms.least_output:
        raise refusal_by(QuotaExceeded, tightest, terms, terms.least_output, now_ms)
    return granted


def require_price(window: WindowRow, terms: Terms) -> None:
    """Raise QuotaExceeded if the window counts money, and the model has no price."""
    if window.quota.key.unit is Unit.MICRO_USD and terms.meter.price is None:
        raise QuotaExceeded(
            f"The model {terms.model} has no price, and a money quota applies to you.",
            quota=window.quota.name,
            unit=Unit.MICRO_USD,
            limit=window.granted,
        )


def require_own_quota(windows: Iterable[WindowRow], terms: Terms) -> None:
    """Raise QuotaExceeded if the user has no token quota of their own that refuses calls: such a user makes no call."""
    if not any(window.admits_owner for window in windows):
        raise QuotaExceeded(
            "You have no token quota. An administrator can set one.",
            quota="user",
            needed=terms.meter.tokens(Usage(terms.input_bound, terms.least_output)),
        )


def _window_holds(windows: list[WindowRow], terms: Terms, granted_output: int, now_ms: int) -> list[WindowHold]:
    """What the call holds in each window. Raises QuotaHeld if the holds of calls in flight leave too little."""
    holds = []
    for window in windows:
        needed = hold_amount(terms, window.quota.key.unit, granted_output) or 0
        if window.settled + window.pending + needed > window.granted and not window.report_only:
            raise refusal_by(QuotaHeld, window, terms, granted_output, now_ms)
        holds.append(WindowHold(window, needed))
    return holds


def find_fallback(windows: Iterable[WindowRow], least_output: int, most_output: MostOutput) -> str | None:
    """The model that one of the windows names for a call for which it has no room: that of the quota whose name is the
    first of several; None if there is none.
    """
    spent = [
        (window.quota.name, window.quota.fallback_model)
        for window in windows
        if window.quota.fallback_model is not None
        and not window.report_only
        and most_output(window.quota.key.unit, window.granted - window.settled) < least_output
    ]
    return min(spent)[1] if spent else None


def unenforced_refusals(
    windows: Iterable[WindowRow],
    granted_output: int,
    least_output: int,
    most_output: MostOutput,
    amount: Callable[[Unit, int], int],
) -> tuple[Unenforced, ...]:
    """What those of the windows that only report would have answered a call that is admitted with this output.

    `amount` returns what the call then holds of a unit.
    """
    found = []
    for window in windows:
        if window.report_only:
            unit = window.quota.key.unit
            output = min(granted_output, most_output(unit, window.granted - window.settled))
            if output < min(least_output, granted_output):
                found.append(Unenforced(window.quota.name, QuotaExceeded.code))
            elif window.settled + window.pending + amount(unit, output) > window.granted:
                found.append(Unenforced(window.quota.name, QuotaHeld.code))
    return tuple(found)


def unenforced(windows: Iterable[WindowRow], terms: Terms, granted_output: int) -> tuple[Unenforced, ...]:
    """What those of the windows that only report would have answered a call that is admitted with this output."""
    return unenforced_refusals(
        windows,
        granted_output,
        terms.least_output,
        most_output_of(terms),
        lambda unit, output: hold_amount(terms, unit, output) or 0,
    )


def most_output_of(terms: Terms) -> MostOutput:
    """The most output with which a call of these terms fits."""
    return lambda unit, room: terms.meter.max_output(unit, terms.input_bound, room)


def hold_amount(terms: Terms, unit: Unit, output: int) -> int | None:
    """What a call with this output holds of a quota in `unit`; None for money if the model has no price."""
    return terms.meter.hold(unit, terms.meter.most_expensive_usage(terms.input_bound, output))


def would_admit(terms: Terms, own: Sequence[Balance], tenants: Sequence[Balance]) -> bool:
    """Whether a call with these terms would be admitted now. `own` are the user's balances, `tenants` the tenant's."""
    balances = [balance for balance in (*own, *tenants) if not balance.report_only]
    if not has_token_quota(own):
        return False
    if terms.meter.price is None and any(balance.unit is Unit.MICRO_USD for balance in balances):
        return False
    fitting = (_max_output(terms, balance.unit, balance.limit, balance.used) for balance in balances)
    granted = min(terms.wanted_output, *fitting)
    if granted < terms.least_output:
        return False
    return all((hold_amount(terms, balance.unit, granted) or 0) <= balance.remaining for balance in balances)


def _max_output(terms: Terms, unit: Unit, limit: int, used: int) -> int:
    """The most output that fits a quota when no other call is in flight; negative if the input alone does not fit."""
    return terms.meter.max_output(unit, terms.input_bound, limit - used)


def refusal_by(kind: type[QuotaRefusal], window: WindowRow, terms: Terms, output: int, now_ms: int) -> QuotaRefusal:
    """The refusal by this window, with when to retry: soon if calls in flight hold the quota, else after the window."""
    until_reset_s = None if window.ends_ms is None else -(-(window.ends_ms - now_ms) // 1000)
    return kind(
        quota=window.quota.name,
        unit=window.quota.key.unit,
        period=window.quota.key.period,
        limit=window.granted,
        used=window.settled,
        reserved=window.pending,
        needed=hold_amount(terms, window.quota.key.unit, output) or 0,
        resets_ms=window.ends_ms,
        retry_after_s=HELD_RETRY_S if kind is QuotaHeld else until_reset_s,
    )
