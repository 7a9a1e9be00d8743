"""Admits calls: with all the output that they want, or with less where their terms allow it.

A call holds on every window that applies, or on none. No I/O.
"""

from collections.abc import Iterable
from contextlib import suppress

from tollkeeper.chat import Usage
from tollkeeper.errors import (
    IdempotencyInFlight,
    InvalidRequest,
    LedgerConflict,
    LedgerUnavailable,
    NotFound,
    QuotaExceeded,
    QuotaRefusal,
    Unauthenticated,
)
from tollkeeper.principal import Principal
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.idempotency import claim_key, find_response
from tollkeeper.quota.rules.idempotency_keys import StoredResponse
from tollkeeper.quota.rules.jobs import JobChange, JobStatus
from tollkeeper.quota.rules.linked import (
    fit_both,
    held_windows,
    most_output_of_both,
    refusal_of_both,
    unenforced_for_both,
)
from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind, Unit
from tollkeeper.quota.rules.operations import (
    Balance,
    ClosedCharge,
    Extend,
    Hold,
    Recover,
    Replayed,
    Reserve,
)
from tollkeeper.quota.rules.page import Account, Page, WindowHold, WindowRow
from tollkeeper.quota.rules.room import find_fallback, fit, most_output_of, refusal_by, unenforced
from tollkeeper.quota.rules.settlement import balance_of, close, close_recovered, close_without_cost, closed_charge
from tollkeeper.quota.rules.subjects import Billing, billing_of
from tollkeeper.quota.time_sorted_ids import month_of
from tollkeeper.tags import encode_tags


def reserve(page: Page, operation: Reserve) -> Hold | Replayed:
    """Hold on every window that applies, or return the response that is stored for the call's key.

    Raises Unauthenticated if the user, the tenant or the credential is no longer valid; NotInGroup; TagRefused;
    QuotaExceeded or QuotaHeld with the quota that refuses; an IdempotencyError; LedgerUnavailable if the disk is almost
    full, or if an earlier try of this operation was committed and its charge is closed by now.
    """
    if (existing := page.charges.get(operation.charge_id)) is not None:
        return _repeat_result(page, operation, existing)
    account = valid_account(page, operation.caller)
    if (response := _find_stored_response(page, operation)) is not None:
        charge = new_charge(page, operation, Usage(0, 0), billing_of(operation.caller))
        page.add_charge(charge, [])
        close_without_cost(page, charge)
        return Replayed(charge.id, balances(current_windows(page, account, operation.caller)), response)
    return admit(page, operation, account)


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
    charge = new_charge(page, operation, Usage(0, 0), billing_of(operation.caller))
    held = terms.meter.most_expensive_usage(terms.input_bound, operation.granted_output)
    windows = held_windows(terms.surface, current_windows(page, account, operation.caller))
    holds = [WindowHold(window, 0) for window in windows]
    for window, _ in holds:
        page.post(window, EntryKind.RESERVE, charge.id, charge.month)
    page.add_charge(charge, holds)
    return close_recovered(page, charge, operation.basis, operation.usage, held)


def valid_account(page: Page, caller: Principal) -> Account:
    """The caller's account. Raises Unauthenticated if the user, the tenant or the credential is no longer valid;
    NotInGroup if the user is no member of the group that the call names; TagRefused.
    """
    account = page.accounts.get(caller.user_id)
    if account is None or not account.accepts(caller, page.now_ms):
        raise Unauthenticated
    account.require_group(caller.group)
    account.tags.require(caller.tags)
    return account


def _repeat_result(page: Page, operation: Reserve, charge: ChargeRow) -> Hold | Replayed:
    """The result of an operation that was committed before, when its result was lost."""
    if charge.open:
        shown = balances(hold.window for hold in page.holds[charge.id])
        hold = Hold(charge.id, charge.granted_output, shown, would_refuse=operation.would_refuse)
        second = page.charges.get(operation.linked.charge_id) if operation.linked is not None else None
        return hold if second is None or not second.open else hold._replace(linked=second_hold(second))
    if charge.basis == Basis.CACHE and (response := _find_stored_response(page, operation)) is not None:
        windows = current_windows(page, page.accounts[operation.caller.user_id], operation.caller)
        return Replayed(charge.id, balances(windows), response)
    raise LedgerUnavailable


def _find_stored_response(page: Page, operation: Reserve) -> StoredResponse | None:
    keyed_request = operation.keyed_request
    if keyed_request is None:
        return None
    return find_response(page, keyed_request.name(operation.caller), keyed_request)


def admit(page: Page, operation: Reserve, account: Account) -> Hold:
    """Hold on every window that applies. Raises InvalidRequest, LedgerUnavailable, QuotaExceeded, QuotaHeld."""
    windows = held_windows(operation.terms.surface, current_windows(page, account, operation.caller))
    try:
        return _admit(page, operation, windows)
    except QuotaExceeded as refusal:
        terms, linked = operation.terms, operation.linked
        most_output = most_output_of(terms) if linked is None else most_output_of_both(terms, linked.terms)
        refusal.fallback_model = find_fallback(windows, terms.least_output, most_output)
        raise


def _admit(page: Page, operation: Reserve, windows: list[WindowRow]) -> Hold:
    if page.refuses_calls:
        raise LedgerUnavailable
    terms = operation.terms
    if min(terms.input_bound, terms.wanted_output, terms.least_output) < 0:
        raise InvalidRequest("The bounds of a call cannot be negative.")
    if not operation.dispatch:
        windows = _held_early(windows, operation, page.now_ms)
    linked, held_second, reporting = operation.linked, None, any(window.report_only for window in windows)
    if linked is None:
        granted_output, holds = fit(windows, terms, page.now_ms)
        operation.would_refuse = unenforced(windows, terms, granted_output) if reporting else ()
        charge = _open_charge(page, operation, granted_output, holds)
    else:
        granted_output, holds, second_holds = fit_both(windows, terms, linked.terms, page.now_ms)
        both = terms, linked.terms, granted_output
        operation.would_refuse = unenforced_for_both(windows, *both) if reporting else ()
        charge = _open_charge(page, operation, granted_output, holds)
        second_terms = linked.terms.after(granted_output)
        second = Reserve(linked.charge_id, operation.caller, second_terms, operation.lease_ms, dispatch=False)
        held_second = second_hold(_open_charge(page, second, second_terms.wanted_output, second_holds))
    if operation.keyed_request is not None:
        claim_key(page, operation.keyed_request.name(operation.caller), operation.keyed_request, charge)
    if operation.job_id is not None:
        status, started_ms = JobStatus.PENDING, None
        if operation.dispatch:
            status, started_ms = JobStatus.PROCESSING, page.now_ms
        page.put_job(JobChange(charge.tenant_id, operation.job_id, charge.id, str(status), started_ms))
    return Hold(charge.id, granted_output, balances(windows), held_second, operation.would_refuse)


def _open_charge(page: Page, operation: Reserve, granted_output: int, holds: list[WindowHold]) -> ChargeRow:
    terms = operation.terms
    held = terms.meter.most_expensive_usage(terms.input_bound, granted_output)
    charge = new_charge(page, operation, held, billing_of(operation.caller))
    for window, pending in holds:
        page.post(window, EntryKind.RESERVE, charge.id, charge.month, pending=pending)
    page.add_charge(charge, holds)
    return charge


def second_hold(charge: ChargeRow) -> Hold:
    """The hold of a second call. Its balances are those of the first."""
    return Hold(charge.id, charge.granted_output)


def new_charge(page: Page, operation: Reserve | Recover, held: Usage, billing: Billing) -> ChargeRow:
    """The row of a charge that opens with this operation. It is not on the page yet."""
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
        key_id=operation.caller.api_key,
        group_id=page.accounts[operation.caller.user_id].group_of(billing),
        conversation=billing.conversation,
        tags=encode_tags(billing.tags) if billing.tags else None,
    )


def current_windows(page: Page, account: Account, caller: Principal) -> list[WindowRow]:
    """The windows of now, of every quota that applies to a call of this caller."""
    return [page.current_windows[quota.slot] for quota in account.quotas_of(billing_of(caller))]


def _held_early(windows: list[WindowRow], operation: Reserve, now_ms: int) -> list[WindowRow]:
    """The windows that a job holds on before it starts. Those that end soon are among them if the user has no longer
    window of their own; concurrency never is.

    Raises QuotaExceeded for a job that can never fit one of the others.
    """
    early = [window for window in windows if not window.quota.is_held_at_dispatch]
    if not any(window.admits_owner for window in early):
        early = [window for window in windows if window.quota.key.unit is not Unit.CONCURRENCY]
    for window in windows:
        if window.report_only:
            continue
        refusal = _refusal_by(window, operation, now_ms)
        if refusal.needed > window.granted:
            raise refusal
    return early


def _refusal_by(window: WindowRow, operation: Reserve, now_ms: int) -> QuotaRefusal:
    """The refusal of a window that has no room for the least output of a call, and for the second call after it."""
    terms, linked = operation.terms, operation.linked
    if linked is None:
        return refusal_by(QuotaExceeded, window, terms, terms.least_output, now_ms)
    return refusal_of_both(QuotaExceeded, window, terms, linked.terms, terms.least_output, now_ms)


def balances(windows: Iterable[WindowRow]) -> tuple[Balance, ...]:
    return tuple([balance_of(window) for window in windows])
