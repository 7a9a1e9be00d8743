"""Starts the call of a charge that was reserved long before: once, by compare-and-set. No I/O.

The account and its credential are checked again. What the charge holds must be what the quotas of now ask for: else a
new charge replaces it, at the price and with the bounds of the old one, or at those of another model. Of a pair, both
are replaced, or none.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tollkeeper.chat import Usage
from tollkeeper.errors import AccessError, LedgerConflict, LedgerUnavailable, QuotaExceeded
from tollkeeper.quota.rules.admission import admit, balances, current_windows, reserve, second_hold, valid_account
from tollkeeper.quota.rules.calls import LinkedCharge, LinkedTerms
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.jobs import JobChange, JobStatus
from tollkeeper.quota.rules.linked import fit_both, held_windows, release_linked, unenforced_for_both
from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind
from tollkeeper.quota.rules.operations import (
    Balance,
    Dispatch,
    Hold,
    Replayed,
    Reserve,
    StartJob,
    Terms,
    Unenforced,
    Withdraw,
)
from tollkeeper.quota.rules.page import Account, Page, WindowHold, WindowRow
from tollkeeper.quota.rules.room import find_fallback, fit, most_output_of, unenforced
from tollkeeper.quota.rules.settlement import close
from tollkeeper.quota.time_sorted_ids import linked_id


def dispatch(page: Page, operation: Dispatch) -> Hold:
    """Change a reserved charge to dispatched.

    Raises LedgerConflict if another operation has dispatched or closed it. Raises Unauthenticated if the user, the
    tenant or the credential is no longer valid, NotInGroup, TagRefused: the charge is then released. Raises
    QuotaExceeded or QuotaHeld if the windows of now have no room: the charge stays as it is. The former names a
    fallback model.
    """
    if (successor := page.charges.get(operation.successor)) is not None:  # an earlier try was committed
        return _hold_of(page, successor, operation)
    charge = page.charges.get(operation.charge_id)
    if charge is None or not charge.open:
        raise LedgerConflict
    if charge.state != ChargeState.RESERVED:
        return _hold_of(page, charge, operation)
    try:
        account = valid_account(page, operation.caller)
    except AccessError as refusal:
        close(page, charge, EntryKind.RELEASE, Basis.NONE, Usage(0, 0), refusal.code)
        release_linked(page, _linked_id(operation, charge))
        raise
    windows, second = current_windows(page, account, operation.caller), _second_of(page, operation, charge)
    is_kept = operation.terms is None
    if is_kept and all(_holds_on(page, one, windows) for one in (charge, second) if one is not None):
        hold = _start(page, operation, charge, second, held_windows(charge.surface, windows))
    else:
        hold = _replace(page, operation, charge, second, account)
        charge = page.charges[hold.charge_id]
    operation.held_by, operation.lease_until_ms, operation.would_refuse = charge.id, charge.lease_ms, hold.would_refuse
    return hold


def start_job(page: Page, operation: StartJob) -> Hold | Replayed:
    """Reserve for a job that waits without a charge, and start it. Raises what `reserve` raises: the job then waits.

    Raises LedgerConflict if it does not wait: the row of the job decides, which is locked.
    """
    assert operation.job_id is not None
    if operation.charge_id not in page.charges:  # else an earlier try was committed
        if operation.job_id not in page.waiting_jobs:
            raise LedgerConflict
        hold = reserve(page, operation)
        page.waiting_jobs.remove(operation.job_id)
        return hold
    return reserve(page, operation)


def withdraw(page: Page, operation: Withdraw) -> bool:
    """Release a charge of which nothing was sent. Returns whether it is released, by this or an earlier try of it."""
    charge = page.charges.get(operation.charge_id)
    if charge is None:
        return False
    if not charge.open:
        return charge.closed_by == EntryKind.RELEASE and charge.error == operation.error
    if charge.state != ChargeState.RESERVED and charge.lease_ms != operation.lease_until_ms:
        return False
    close(page, charge, EntryKind.RELEASE, Basis.NONE, Usage(0, 0), operation.error)
    release_linked(page, linked_id(charge.id))
    return True


def frozen_terms(charge: ChargeRow) -> Terms:
    """The terms of a charge: what it was reserved with, to be had in full or not at all."""
    output = charge.granted_output
    return Terms(charge.surface, charge.provider, charge.model, charge.meter, charge.input_bound, output, output)


def _hold_of(page: Page, charge: ChargeRow, operation: Dispatch) -> Hold:
    """The hold of a charge that this operation has dispatched before. Raises LedgerConflict for another's."""
    if not charge.open or charge.lease_ms != operation.lease_until_ms:
        raise LedgerConflict
    shown, second = balances(hold.window for hold in page.holds[charge.id]), _second_of(page, operation, charge)
    return _hold(charge, second, shown, operation.would_refuse)


def _hold(
    charge: ChargeRow, second: ChargeRow | None, shown: tuple[Balance, ...], would_refuse: tuple[Unenforced, ...]
) -> Hold:
    linked = second_hold(second) if second is not None else None
    return Hold(charge.id, charge.granted_output, shown, linked, would_refuse)


def _linked_id(operation: Dispatch, charge: ChargeRow) -> str | None:
    return linked_id(charge.id) if operation.is_pair else None


def _second_of(page: Page, operation: Dispatch, charge: ChargeRow) -> ChargeRow | None:
    """The second charge of a pair, if it waits for the end of this one."""
    second = page.charges.get(linked_id(charge.id)) if operation.is_pair else None
    return second if second is not None and second.open and second.state == ChargeState.RESERVED else None


def _holds_on(page: Page, charge: ChargeRow, windows: list[WindowRow]) -> bool:
    """Whether a charge holds on those of these windows that it has to hold on, and on no other one."""
    asked_for = {window.id for window in held_windows(charge.surface, windows)}
    return asked_for == {hold.window.id for hold in page.holds[charge.id]}


def _start(
    page: Page, operation: Dispatch, charge: ChargeRow, second: ChargeRow | None, windows: list[WindowRow]
) -> Hold:
    charge.state = str(ChargeState.DISPATCHED)
    for one in (charge, second):
        if one is not None:
            one.lease_ms = page.now_ms + operation.lease_ms
            page.mark_changed(one)
    if operation.job_id is not None:
        change = JobChange(charge.tenant_id, operation.job_id, charge.id, str(JobStatus.PROCESSING), page.now_ms)
        page.put_job(change)
    return _hold(charge, second, balances(windows), _unenforced(page, charge, second, windows))


def _unenforced(
    page: Page, charge: ChargeRow, second: ChargeRow | None, windows: list[WindowRow]
) -> tuple[Unenforced, ...]:
    """What those of the windows that only report would have answered this call, if it had held nothing before."""
    if not any(window.report_only for window in windows):
        return ()
    terms, granted = frozen_terms(charge), charge.granted_output
    with _given_back(_holds_of(page, charge, second)):
        if second is None:
            return unenforced(windows, terms, granted)
        return unenforced_for_both(windows, terms, _frozen_linked_terms(second), granted)


def _frozen_linked_terms(second: ChargeRow) -> LinkedTerms:
    """The terms of a second charge: the output of the first is granted, so its input is in the bound."""
    return LinkedTerms(frozen_terms(second), 0)


def _holds_of(page: Page, charge: ChargeRow, second: ChargeRow | None) -> list[WindowHold]:
    return [*page.holds[charge.id], *(page.holds[second.id] if second is not None else ())]


@contextmanager
def _given_back(holds: list[WindowHold]) -> Iterator[None]:
    """Within the block, the windows are as they would be without these holds."""
    for window, pending in holds:
        window.pending -= pending
    try:
        yield
    finally:
        for window, pending in holds:
            window.pending += pending


def _replace(page: Page, operation: Dispatch, charge: ChargeRow, second: ChargeRow | None, account: Account) -> Hold:
    """Release the charges, and hold on the windows of now by new ones. Raises QuotaExceeded, QuotaHeld: as before."""
    if page.refuses_calls:
        raise LedgerUnavailable
    terms, linked = operation.terms or frozen_terms(charge), None
    windows = held_windows(terms.surface, current_windows(page, account, operation.caller))
    try:
        with _given_back(_holds_of(page, charge, second)):
            if second is None:
                fit(windows, terms, page.now_ms)
            else:
                linked = LinkedCharge(linked_id(operation.successor), _frozen_linked_terms(second))
                fit_both(windows, terms, linked.terms, page.now_ms)
    except QuotaExceeded as refusal:
        refusal.fallback_model = find_fallback(windows, terms.least_output, most_output_of(terms))
        raise
    for one in (charge, second):
        if one is not None:
            close(page, one, EntryKind.RELEASE, Basis.NONE, Usage(0, 0), "replaced")
    reserve = Reserve(
        operation.successor, operation.caller, terms, operation.lease_ms, job_id=operation.job_id, linked=linked
    )
    return admit(page, reserve, account)
