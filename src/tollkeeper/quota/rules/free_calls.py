"""Books calls that are answered without a provider. No I/O."""

from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerUnavailable
from tollkeeper.quota.rules.admission import new_charge, valid_account
from tollkeeper.quota.rules.models import EntryKind
from tollkeeper.quota.rules.operations import BookFree, ClosedCharge
from tollkeeper.quota.rules.page import Page
from tollkeeper.quota.rules.room import fit_request, require_own_quota, unenforced
from tollkeeper.quota.rules.settlement import close_without_cost, closed_with
from tollkeeper.quota.rules.subjects import billing_of


def book_free(page: Page, operation: BookFree) -> ClosedCharge:
    """Book a call at no cost. It counts in the quotas of requests, and in no other.

    Raises Unauthenticated, LedgerUnavailable if the disk is almost full, QuotaExceeded without any token quota, and
    QuotaExceeded or QuotaHeld with the quota of requests that has no room.
    """
    account = valid_account(page, operation.caller)
    billing = billing_of(operation.caller)
    quotas = account.quotas_of(billing)
    windows = [page.current_windows.get(quota.slot) or page.shown_windows[quota.slot] for quota in quotas]
    charge = page.charges.get(operation.charge_id)
    if charge is None:
        if page.refuses_calls:
            raise LedgerUnavailable
        require_own_quota(windows, operation.terms)
        counting = [page.current_windows[quota.slot] for quota in quotas if quota.counts_free_calls]
        holds = fit_request(counting, operation.terms, page.now_ms)
        operation.would_refuse = unenforced(counting, operation.terms, 0) if counting else ()
        charge = new_charge(page, operation, Usage(0, 0), billing)
        for window, pending in holds:
            page.post(window, EntryKind.RESERVE, charge.id, charge.month, pending=pending)
        page.add_charge(charge, holds)
        close_without_cost(page, charge)
    return closed_with(charge, windows, operation.would_refuse)
