"""Admits calls: with all the output that they want, or with less where their terms allow it.

A call holds on every window that applies, or on none. No I/O.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from tollkeeper.chat import Usage
from tollkeeper.errors import (
    IdempotencyInFlight,
    InvalidRequest,
    LedgerConflict,
    LedgerUnavailable,
    NotFound,
    QuotaExceeded,
    QuotaHeld,
    QuotaRefusal,
    Unauthenticated,
)
from tollkeeper.quota.rules.balances import has_token_quota
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.idempotency import claim_key, find_response
from tollkeeper.quota.rules.idempotency_keys import StoredResponse
from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind, Unit
from tollkeeper.quota.rules.operations import Balance, ClosedCharge, Extend, Hold, Recover, Replayed, Reserve, Terms
from tollkeeper.quota.rules.page import Account, Page, WindowHold, WindowRow
from tollkeeper.quota.rules.settlement import balance_of, close, close_recovered, close_without_cost, closed_charge
from tollkeeper.quota.time_sorted_ids import month_of

HELD_RETRY_S = 1
"""The `retry_after_s` of a refusal by the holds of calls in flight, which end soon."""


def reserve(page: Page, operation: Reserve) -> Hold | Replayed:
    """Hold on every window that applies, or return the response that is stored for the call's key.

    Raises Unauthenticated if the user, the tenant or the credential is no longer valid; QuotaExceeded or QuotaHeld with
    the quota that refuses; an IdempotencyError; LedgerUnavailable if the disk is almost full, or if an earlier try of
    this operation was committed and its charge is closed by now.
    """
    if (existing := page.charges.get(operation.charge_id)) is not None:
        return _repeat_result(page, operation, existing)
    account = page.accounts.get(operation.caller.user_id)
    if account is None or not account.accepts(operation.caller, page.now_ms):
        raise Unauthenticated
    if (response := _find_stored_response(page, operation)) is not None:
        charge = _new_charge(page, operation, Usage(0, 0))
        page.add_charge(charge, [])
        close_without_cost(page, charge)
        return Replayed(charge.id, _balances(_current_windows(page, account)), response)
    return _admit(page, operation, account)


def extend(page: Page, operation: Extend) -> Hold | Replayed:
    """Release the failed attempt, and reserve for the next one with the quota that the release gave back.

    The failure proves that nothing was billed. So the release stands even if the reserve is refused, and it adjusts an
    earlier expiry. Raises what `reserve` raises, and IdempotencyInFlight if the key is another call's by now.
    """
    failed = page.charges.get(operation.previous)
    if failed is not None:
        with suppress(LedgerConflict):
            close(page, failed, EntryKind.RELEASE, Basis.NONE, Usage(0, 0), operation.error)
    if operation.charge_id not in page.charges and _find_stored_response(page, operation) is not None:
        raise IdempotencyInFlight
    return reserve(page, operation)


def recover(page: Page, operation: Recover) -> ClosedCharge:
    """Book a call whose charge was lost, in the current windows. Raises NotFound if its user was lost, too.

    It holds nothing, because a hold could exceed a quota. So whatever it costs is an overrun. Usage that was not
    reported costs at most what the lost charge held.
    """
    if (existing := page.charges.get(operation.charge_id)) is not None:
        return closed_charge(page, existing)
    account = page.accounts.get(operation.caller.user_id)
    if account is None:
        raise NotFound("The user of a lost charge does not exist any more.")
    terms = operation.terms
    charge = _new_charge(page, operation, Usage(0, 0))
    held = terms.meter.most_expensive_usage(terms.input_bound, operation.granted_output)
    holds = [WindowHold(window, 0) for window in _current_windows(page, account)]
    for window, _ in holds:
        page.post(window, EntryKind.RESERVE, charge.id, charge.month)
    page.add_charge(charge, holds)
    return close_recovered(page, charge, operation.basis, operation.usage, held)


def _repeat_result(page: Page, operation: Reserve, charge: ChargeRow) -> Hold | Replayed:
    """The result of an operation that was committed before, when its result was lost."""
    if charge.open:
        return Hold(charge.id, charge.granted_output, _balances(hold.window for hold in page.holds[charge.id]))
    if charge.basis == Basis.CACHE and (response := _find_stored_response(page, operation)) is not None:
        windows = _current_windows(page, page.accounts[operation.caller.user_id])
        return Replayed(charge.id, _balances(windows), response)
    raise LedgerUnavailable


def _find_stored_response(page: Page, operation: Reserve) -> StoredResponse | None:
    keyed_request = operation.keyed_request
    if keyed_request is None:
        return None
    return find_response(page, keyed_request.name(operation.caller), keyed_request)


def _admit(page: Page, operation: Reserve, account: Account) -> Hold:
    if page.refuses_calls:
        raise LedgerUnavailable
    terms = operation.terms
    if min(terms.input_bound, terms.wanted_output, terms.least_output) < 0:
        raise InvalidRequest("The bounds of a call cannot be negative.")
    windows = _current_windows(page, account)
    granted_output = _grant_output(windows, terms, page.now_ms)
    holds = _window_holds(windows, terms, granted_output, page.now_ms)
    charge = _new_charge(page, operation, terms.meter.most_expensive_usage(terms.input_bound, granted_output))
    for window, pending in holds:
        page.post(window, EntryKind.RESERVE, charge.id, charge.month, pending=pending)
    page.add_charge(charge, holds)
    if operation.keyed_request is not None:
        claim_key(page, operation.keyed_request.name(operation.caller), operation.keyed_request, charge)
    return Hold(charge.id, granted_output, _balances(windows))


def _new_charge(page: Page, operation: Reserve | Recover, held: Usage) -> ChargeRow:
    terms, price = operation.terms, operation.terms.meter.price
    is_dispatched = isinstance(operation, Recover) or operation.dispatch
    lease_ms = operation.lease_ms if isinstance(operation, Reserve) else 0
    return ChargeRow(
        id=operation.charge_id,
        tenant_id=operation.caller.tenant_id,
        month=month_of(operation.charge_id),
        user_id=operation.caller.user_id,
        surface=terms.surface,
        provider=terms.provider,
        model=terms.model,
        state=str(ChargeState.DISPATCHED if is_dispatched else ChargeState.RESERVED),
        weight_milli=terms.meter.weight_milli,
        price_input=price.input if price else None,
        price_cached=price.cached_input if price else None,
        price_output=price.output if price else None,
        price_cache_write=price.cache_write if price else None,
        input_bound=held.input_tokens,
        granted_output=held.output_tokens,
        held_tokens=terms.meter.tokens(held),
        held_micro_usd=terms.meter.micro_usd(held),
        checkpoint_input=held.input_tokens,
        checkpoint_output=0,
        created_ms=page.now_ms,
        lease_ms=page.now_ms + lease_ms,
    )


def _current_windows(page: Page, account: Account) -> list[WindowRow]:
    return [page.current_windows[quota.id] for quota in account.quotas]


def _balances(windows: Iterable[WindowRow]) -> tuple[Balance, ...]:
    return tuple([balance_of(window) for window in windows])


def _grant_output(windows: list[WindowRow], terms: Terms, now_ms: int) -> int:
    """The output that fits every window when no other call is in flight, at most the wanted output.

    Raises QuotaExceeded, with the tightest window, if that is below `least_output`, or if the user has no token quota
    of their own.
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
        fitting = _max_output(terms, unit, window.granted, window.settled)
        if fitting < granted:
            granted, tightest = fitting, window
    if tightest is not None and granted < terms.least_output:
        raise _refusal(QuotaExceeded, tightest, terms, terms.least_output, now_ms)
    return granted


def _window_holds(windows: list[WindowRow], terms: Terms, granted_output: int, now_ms: int) -> list[WindowHold]:
    """What the call holds in each window. Raises QuotaHeld if the holds of calls in flight leave too little."""
    holds = []
    for window in windows:
        needed = hold_amount(terms, window.quota.key.unit, granted_output) or 0
        if window.settled + window.pending + needed > window.granted:
            raise _refusal(QuotaHeld, window, terms, granted_output, now_ms)
        holds.append(WindowHold(window, needed))
    return holds


def hold_amount(terms: Terms, unit: Unit, output: int) -> int | None:
    """What a call with this output holds of a quota in `unit`; None for money if the model has no price."""
    return terms.meter.cost(unit, terms.meter.most_expensive_usage(terms.input_bound, output))


def would_admit(terms: Terms, own: Sequence[Balance], tenants: Sequence[Balance]) -> bool:
    """Whether a call with these terms would be admitted now. `own` are the user's balances, `tenants` the tenant's."""
    balances = [*own, *tenants]
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


def _refusal(kind: type[QuotaRefusal], window: WindowRow, terms: Terms, output: int, now_ms: int) -> QuotaRefusal:
    """The refusal by this window, with when to retry: soon if calls in flight hold the quota, else after the window."""
    until_reset_s = None if window.ends_ms is None else -(-(window.ends_ms - now_ms) // 1000)
    return kind(
        quota=window.quota.name,
        unit=window.quota.key.unit,
        limit=window.granted,
        used=window.settled,
        reserved=window.pending,
        needed=hold_amount(terms, window.quota.key.unit, output) or 0,
        resets_ms=window.ends_ms,
        retry_after_s=HELD_RETRY_S if kind is QuotaHeld else until_reset_s,
    )
