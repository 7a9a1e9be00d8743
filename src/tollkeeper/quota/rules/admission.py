"""How a call is admitted: in full where it fits, clamped where it may be, on every window that applies or on none.

Pure, as the other verbs are.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from tollkeeper.chat import Usage
from tollkeeper.errors import (
    IdempotencyInFlight,
    InvalidRequest,
    LedgerConflict,
    LedgerUnavailable,
    QuotaExceeded,
    QuotaHeld,
    QuotaRefusal,
    Unauthenticated,
)
from tollkeeper.quota.rules.balances import has_token_quota
from tollkeeper.quota.rules.idempotency import kept_answer, take
from tollkeeper.quota.rules.keys import StoredResponse
from tollkeeper.quota.rules.models import Basis, Kind, State, Unit
from tollkeeper.quota.rules.operations import Balance, Extend, Held, Replayed, Reserve, Terms
from tollkeeper.quota.rules.page import Account, ChargeRow, Hold, Page, WindowRow
from tollkeeper.quota.rules.settlement import balance, close, end_at_nothing

HELD_RETRY_S = 1


def reserve(page: Page, operation: Reserve) -> Held | Replayed:
    """Hold on every window that applies, or refuse with the quota that is in the way; or give a kept answer again.

    Raises Unauthenticated when the user, the tenant or the credential is no longer good, QuotaExceeded, QuotaHeld, an
    IdempotencyError, and LedgerUnavailable when it was committed in vain: its answer was lost for so long that the
    hold is gone.
    """
    if (existing := page.charges.get(operation.charge_id)) is not None:
        return _run_again(page, operation, existing)
    account = page.accounts.get(operation.caller.user_id)
    if account is None or not account.accepts(operation.caller, page.now_ms):
        raise Unauthenticated
    if (answer := _kept_answer(page, operation)) is not None:
        charge = _charge(page, operation, Usage(0, 0))
        page.open_charge(charge, [])
        end_at_nothing(page, charge)
        return Replayed(charge.id, _balances(_current(page, account)), answer)
    return _hold(page, operation, account)


def extend(page: Page, operation: Extend) -> Held | Replayed:
    """Release the attempt that failed, and reserve the next one with the room that this gave back.

    The failure proved that nothing was billed, so the release stands though the reserve is refused, and corrects an
    expiry that came before it. Raises as `reserve` does; IdempotencyInFlight when the key is another call's by now.
    """
    failed = page.charges.get(operation.previous)
    if failed is not None:
        with suppress(LedgerConflict):
            close(page, failed, Kind.RELEASE, Basis.NONE, Usage(0, 0), operation.error)
    if operation.charge_id not in page.charges and _kept_answer(page, operation) is not None:
        raise IdempotencyInFlight
    return reserve(page, operation)


def _run_again(page: Page, operation: Reserve, charge: ChargeRow) -> Held | Replayed:
    """What was answered when this was committed, and the answer lost."""
    if charge.open:
        return Held(charge.id, charge.granted_output, _balances(hold.window for hold in page.holds[charge.id]))
    if charge.basis == Basis.CACHE and (answer := _kept_answer(page, operation)) is not None:
        windows = _current(page, page.accounts[operation.caller.user_id])
        return Replayed(charge.id, _balances(windows), answer)
    raise LedgerUnavailable


def _kept_answer(page: Page, operation: Reserve) -> StoredResponse | None:
    request = operation.keyed_request
    return None if request is None else kept_answer(page, request.name(operation.caller.user_id), request)


def _hold(page: Page, operation: Reserve, account: Account) -> Held:
    terms = operation.terms
    if min(terms.input_bound, terms.wanted_output, terms.least_output) < 0:
        raise InvalidRequest("A call cannot be of less than no tokens.")
    windows = _current(page, account)
    granted_output = _grant_output(windows, terms, page.now_ms)
    holds = _holds(windows, terms, granted_output, page.now_ms)
    charge = _charge(page, operation, terms.meter.dearest(terms.input_bound, granted_output))
    for window, pending in holds:
        page.move(window, Kind.RESERVE, charge.id, pending=pending)
    page.open_charge(charge, holds)
    if operation.keyed_request is not None:
        take(page, operation.keyed_request.name(charge.user_id), operation.keyed_request, charge)
    return Held(charge.id, granted_output, _balances(windows))


def _charge(page: Page, operation: Reserve, most: Usage) -> ChargeRow:
    terms, price = operation.terms, operation.terms.meter.price
    return ChargeRow(
        id=operation.charge_id,
        tenant_id=operation.caller.tenant_id,
        user_id=operation.caller.user_id,
        surface=terms.surface,
        provider=terms.provider,
        model=terms.model,
        state=str(State.DISPATCHED if operation.dispatch else State.RESERVED),
        weight_milli=terms.meter.weight_milli,
        price_input=price.input if price else None,
        price_cached=price.cached_input if price else None,
        price_output=price.output if price else None,
        price_cache_write=price.cache_write if price else None,
        input_bound=most.input_tokens,
        granted_output=most.output_tokens,
        held_tokens=terms.meter.tokens(most),
        held_micro_usd=terms.meter.micro_usd(most),
        checkpoint_input=most.input_tokens,
        checkpoint_output=0,
        created_ms=page.now_ms,
        lease_ms=page.now_ms + operation.lease_ms,
    )


def _current(page: Page, account: Account) -> list[WindowRow]:
    return [page.current[quota.id] for quota in account.quotas]


def _balances(windows: Iterable[WindowRow]) -> tuple[Balance, ...]:
    return tuple([balance(window) for window in windows])


def _grant_output(windows: list[WindowRow], terms: Terms, now_ms: int) -> int:
    """The output that fits every window with nothing else in flight, at most what is wanted.

    Raises QuotaExceeded naming the window with the least room when that is below `least_output`, or when the user has
    no token quota of their own.
    """
    if not any(window.quota.is_own_token_quota for window in windows):
        raise QuotaExceeded(
            "You have no token quota. An administrator can set one.",
            quota="user",
            needed=terms.meter.tokens(Usage(terms.input_bound, terms.least_output)),
        )
    granted, tightest = terms.wanted_output, None
    for window in windows:
        unit = window.quota.key.unit
        if unit is Unit.MICRO_USD and terms.meter.price is None:
            raise QuotaExceeded(
                "This model has no price, and a money quota applies to you.",
                quota=window.quota.name,
                unit=unit,
                limit=window.granted,
            )
        fits = _fitting_output(terms, unit, window.granted, window.settled)
        if fits < granted:
            granted, tightest = fits, window
    if tightest is not None and granted < terms.least_output:
        raise _refusal(QuotaExceeded, tightest, terms, terms.least_output, now_ms)
    return granted


def _holds(windows: list[WindowRow], terms: Terms, granted_output: int, now_ms: int) -> list[Hold]:
    """What the call takes of each window. Raises QuotaHeld when calls in flight are in the way."""
    holds = []
    for window in windows:
        needed = hold_of(terms, window.quota.key.unit, granted_output) or 0
        if window.settled + window.pending + needed > window.granted:
            raise _refusal(QuotaHeld, window, terms, granted_output, now_ms)
        holds.append(Hold(window, needed))
    return holds


def hold_of(terms: Terms, unit: Unit, output: int) -> int | None:
    """What a call with so much output holds of a quota in this unit; None for money where the model has no price."""
    return terms.meter.cost(unit, terms.meter.dearest(terms.input_bound, output))


def would_admit(terms: Terms, own: Sequence[Balance], tenants: Sequence[Balance]) -> bool:
    """Whether a call with these terms would be admitted now. `own` are its user's balances, `tenants` the tenant's."""
    balances = [*own, *tenants]
    if not has_token_quota(own):
        return False
    if terms.meter.price is None and any(balance.unit is Unit.MICRO_USD for balance in balances):
        return False
    fitting = (_fitting_output(terms, balance.unit, balance.limit, balance.used) for balance in balances)
    granted = min(terms.wanted_output, *fitting)
    if granted < terms.least_output:
        return False
    return all((hold_of(terms, balance.unit, granted) or 0) <= balance.remaining for balance in balances)


def _fitting_output(terms: Terms, unit: Unit, limit: int, used: int) -> int:
    """The largest output that fits a quota with nothing else in flight; negative where the input alone does not fit."""
    return terms.meter.max_output(unit, terms.input_bound, limit - used)


def _refusal(kind: type[QuotaRefusal], window: WindowRow, terms: Terms, output: int, now_ms: int) -> QuotaRefusal:
    """Says when to come back: soon for what calls in flight hold, else when the window is over, if it ever is."""
    until_reset_s = None if window.ends_ms is None else -(-(window.ends_ms - now_ms) // 1000)
    return kind(
        quota=window.quota.name,
        unit=window.quota.key.unit,
        limit=window.granted,
        used=window.settled,
        reserved=window.pending,
        needed=hold_of(terms, window.quota.key.unit, output) or 0,
        resets_ms=window.ends_ms,
        retry_after_s=HELD_RETRY_S if kind is QuotaHeld else until_reset_s,
    )
