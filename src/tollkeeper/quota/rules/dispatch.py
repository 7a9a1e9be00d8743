"""Starts the call of a charge that was reserved long before: once, by compare-and-set. No I/O.

The account and its credential are checked again. What the charge holds must be what the quotas of now ask for: else a
new charge replaces it, at the price and with the bounds of the old one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tollkeeper.chat import Usage
from tollkeeper.errors import AccessError, LedgerConflict, LedgerUnavailable
from tollkeeper.quota.rules.admission import admit, balances, current_windows, reserve, valid_account
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.jobs import JobChange, JobStatus
from tollkeeper.quota.rules.linked import held_windows
from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind
from tollkeeper.quota.rules.operations import (
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
from tollkeeper.quota.rules.room import fit, unenforced
from tollkeeper.quota.rules.settlement import close


def dispatch(page: Page, operation: Dispatch) -> Hold:
    """Change a reserved charge to dispatched.

    Raises LedgerConflict if another operation has dispatched or closed it. Raises Unauthenticated if the user, the
    tenant or the credential is no longer valid, NotInGroup: the charge is then released. Raises QuotaExceeded or
    QuotaHeld if the windows of now have no room: the charge stays as it is.
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
        raise
    windows = held_windows(charge.surface, current_windows(page, account, operation.caller))
    if {window.id for window in windows} != {hold.window.id for hold in page.holds[charge.id]}:
        hold = _replace(page, operation, charge, account)
        charge = page.charges[hold.charge_id]
    else:
        charge.state = str(ChargeState.DISPATCHED)
        charge.lease_ms = page.now_ms + operation.lease_ms
        page.mark_changed(charge)
        if operation.job_id is not None:
            change = JobChange(charge.tenant_id, operation.job_id, charge.id, str(JobStatus.PROCESSING), page.now_ms)
            page.put_job(change)
        said = _unenforced(page, charge, windows)
        hold = Hold(charge.id, charge.granted_output, balances(windows), would_refuse=said)
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
    return True


def frozen_terms(charge: ChargeRow) -> Terms:
    """The terms of a charge: what it was reserved with, to be had in full or not at all."""
    output = charge.granted_output
    return Terms(charge.surface, charge.provider, charge.model, charge.meter, charge.input_bound, output, output)


def _hold_of(page: Page, charge: ChargeRow, operation: Dispatch) -> Hold:
    """The hold of a charge that this operation has dispatched before. Raises LedgerConflict for another's."""
    if not charge.open or charge.lease_ms != operation.lease_until_ms:
        raise LedgerConflict
    shown = balances(hold.window for hold in page.holds[charge.id])
    return Hold(charge.id, charge.granted_output, shown, would_refuse=operation.would_refuse)


def _unenforced(page: Page, charge: ChargeRow, windows: list[WindowRow]) -> tuple[Unenforced, ...]:
    """What those of the windows that only report would have answered this call, if it had held nothing before."""
    if not any(window.report_only for window in windows):
        return ()
    with _given_back(page.holds[charge.id]):
        return unenforced(windows, frozen_terms(charge), charge.granted_output)


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


def _replace(page: Page, operation: Dispatch, charge: ChargeRow, account: Account) -> Hold:
    """Release the charge, and hold on the windows of now by a new one. Raises QuotaExceeded, QuotaHeld: as before."""
    if page.refuses_calls:
        raise LedgerUnavailable
    terms = frozen_terms(charge)
    with _given_back(page.holds[charge.id]):
        fit(held_windows(terms.surface, current_windows(page, account, operation.caller)), terms, page.now_ms)
    close(page, charge, EntryKind.RELEASE, Basis.NONE, Usage(0, 0), "replaced")
    reserve = Reserve(operation.successor, operation.caller, terms, operation.lease_ms, job_id=operation.job_id)
    return admit(page, reserve, account)
