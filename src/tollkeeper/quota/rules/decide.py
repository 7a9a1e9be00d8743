"""Decides operations in memory, on a page whose rows are locked. No I/O: neither the clock nor the database.

Each operation is checked completely before it changes the page, so a refused operation leaves the page as it was. There
are two exceptions: `Extend` has then released its previous charge; `Dispatch` has released the charge of a caller whose
access has ended. `admission.py` has the rules of reserves.
"""

from collections.abc import Collection, Sequence
from typing import assert_never

from tollkeeper.chat import Usage
from tollkeeper.errors import ChargeArchived, LedgerConflict, NotFound, TollkeeperError
from tollkeeper.quota.rules.administer import administer
from tollkeeper.quota.rules.admission import extend, recover, reserve
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.dispatch import dispatch, start_job, withdraw
from tollkeeper.quota.rules.free_calls import book_free
from tollkeeper.quota.rules.idempotency import store_response
from tollkeeper.quota.rules.job_results import store_result
from tollkeeper.quota.rules.linked import release_linked
from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind
from tollkeeper.quota.rules.operations import (
    Administer,
    BookFree,
    ClosedCharge,
    Dispatch,
    Expire,
    Extend,
    Operation,
    Recover,
    Refund,
    Release,
    Renew,
    Reserve,
    Result,
    Settle,
    StartJob,
    Withdraw,
)
from tollkeeper.quota.rules.page import Page
from tollkeeper.quota.rules.settlement import close, closed_charge, usage_at_expiry
from tollkeeper.quota.time_sorted_ids import month_of


def decide(page: Page, operations: Sequence[Operation]) -> list[Result | TollkeeperError]:
    """Decide the operations in this order. Returns the result or the refusal of each.

    A refused `Administer` raises instead, so that the transaction, which created quotas for it, is rolled back.
    """
    results: list[Result | TollkeeperError] = []
    for operation in operations:
        try:
            results.append(_decide(page, operation))
        except TollkeeperError as refusal:
            if isinstance(operation, Administer):
                raise
            results.append(refusal)
    return results


def _decide(page: Page, operation: Operation) -> Result:
    match operation:
        case Reserve():
            return _open(page, operation)
        case Settle():
            return settle(page, operation)
        case Release():
            return release(page, operation)
        case Renew():
            return renew(page, operation)
        case Dispatch():
            return dispatch(page, operation)
        case Withdraw():
            return withdraw(page, operation)
        case Recover():
            _refuse_archived(page, operation.charge_id)
            return recover(page, operation)
        case Expire():
            return expire(page, operation)
        case Administer():
            return administer(page, operation)
        case Refund():
            return refund(page, operation)
        case _:
            assert_never(operation)


def _open(page: Page, operation: Reserve) -> Result:
    """Open the charge of a call."""
    match operation:
        case Extend():
            return extend(page, operation)
        case StartJob():
            return start_job(page, operation)
        case BookFree():
            return book_free(page, operation)
        case _:
            return reserve(page, operation)


def renew(page: Page, operation: Renew) -> set[str]:
    """Extend the leases of open charges. Returns the ids of the others.

    A checkpoint only becomes more exact: its input starts as a bound, and its output grows. A charge whose row is
    locked waits for the next renewal; it cannot be expired meanwhile.
    """
    closed_ids = set()
    locked_ids: Collection[str] = page.locked.charges if page.locked is not None else ()
    for charge_id, (input_tokens, output_tokens) in operation.checkpoints.items():
        if charge_id in locked_ids:
            continue
        charge = page.charges.get(charge_id)
        if charge is None or not charge.open:
            closed_ids.add(charge_id)
            continue
        charge.checkpoint_input = min(charge.checkpoint_input, input_tokens)
        charge.checkpoint_output = max(charge.checkpoint_output, output_tokens)
        charge.lease_ms = max(charge.lease_ms, page.now_ms + operation.lease_ms)
        page.mark_changed(charge)
    return closed_ids


def settle(page: Page, operation: Settle) -> Result:
    """Book a cost: in full if the provider reported it, at most the hold if it was counted. Raises NotFound."""
    charge = _charge(page, operation.charge_id)
    closed = close(page, charge, EntryKind.SETTLE, operation.basis, operation.usage, operation.error)
    if operation.store_response is not None:
        store_response(page, operation.store_response, closed)
    if operation.job_result is not None:
        store_result(page, operation.job_result, charge.tenant_id, closed)
    if operation.linked_id is not None:
        release_linked(page, operation.linked_id)
        closed = closed_charge(page, charge)
    return closed


def release(page: Page, operation: Release) -> Result:
    """Give the whole hold back. The charge of a replay holds nothing, and is returned as it is."""
    charge = page.charges.get(operation.charge_id)
    if charge is None:
        return None
    if charge.basis == Basis.CACHE:
        return closed_charge(page, charge)
    close(page, charge, EntryKind.RELEASE, Basis.NONE, Usage(0, 0), operation.error)
    release_linked(page, operation.linked_id)
    return closed_charge(page, charge)


def expire(page: Page, operation: Expire) -> ClosedCharge | None:
    """Close a charge whose lease is over. If it was sent, book the checkpoint and forgive the rest; else release it.

    Returns None for a charge that is closed, or whose lease is not over.
    """
    charge = page.charges.get(operation.charge_id)
    if charge is None or not charge.open or charge.lease_ms >= page.now_ms:
        return None
    basis, usage = usage_at_expiry(charge)
    return close(page, charge, EntryKind.EXPIRE, basis, usage, "lease_over")


def refund(page: Page, operation: Refund) -> int:
    """Give the cost of a charge back, to the windows that it was booked in. Raises NotFound, LedgerConflict."""
    charge = _charge(page, operation.charge_id)
    if charge.refunded and operation.retried:
        return charge.cost_tokens
    if charge.state != ChargeState.SETTLED or charge.refunded or not (charge.cost_tokens or charge.cost_micro_usd):
        raise LedgerConflict("Only a settled charge with a cost can be refunded, and only once.")
    charge.refunded = True
    page.mark_changed(charge)
    for hold in page.holds[charge.id]:
        cost = charge.cost(hold.window.quota.key.unit)
        page.post(
            hold.window,
            EntryKind.REFUND,
            charge.id,
            charge.month,
            settled=-cost,
            actor=operation.actor,
            reason=operation.reason,
        )
    return charge.cost_tokens


def _charge(page: Page, charge_id: str) -> ChargeRow:
    """Raises NotFound, ChargeArchived."""
    _refuse_archived(page, charge_id)
    charge = page.charges.get(charge_id)
    if charge is None:
        raise NotFound("There is no such charge.")
    return charge


def _refuse_archived(page: Page, charge_id: str) -> None:
    """Raise ChargeArchived for a charge that is archived, or is about to be."""
    if page.archived_month and month_of(charge_id) <= page.archived_month:
        raise ChargeArchived
