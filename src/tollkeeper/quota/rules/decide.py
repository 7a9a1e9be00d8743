"""Decides operations in memory, on a page whose rows are locked. No I/O: neither the clock nor the database.

Each operation is checked completely before it changes the page, so a refused operation leaves the page as it was. The
exception is `Extend`, which has then released its previous charge. `admission.py` has the rules of reserves.
"""

from collections.abc import Collection, Sequence
from typing import assert_never

from tollkeeper.chat import Usage
from tollkeeper.errors import InvalidRequest, LedgerConflict, NotFound, TollkeeperError
from tollkeeper.quota.rules.admission import extend, recover, reserve
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.idempotency import store_response
from tollkeeper.quota.rules.models import Basis, ChargeState, EntryKind
from tollkeeper.quota.rules.operations import (
    Administer,
    Balance,
    Dispatch,
    Expire,
    Extend,
    LimitChange,
    Operation,
    Recover,
    Refund,
    Release,
    Renew,
    Reserve,
    Result,
    SetLimit,
    Settle,
)
from tollkeeper.quota.rules.page import Page, QuotaRow
from tollkeeper.quota.rules.settlement import balance_of, close, closed_charge, usage_at_expiry
from tollkeeper.quota.rules.windows import MAX_GRANTED
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
        case Extend():  # before Reserve, whose subclass it is
            return extend(page, operation)
        case Reserve():
            return reserve(page, operation)
        case Settle():
            return settle(page, operation)
        case Release():
            return release(page, operation)
        case Renew():
            return renew(page, operation)
        case Dispatch():
            return dispatch(page, operation)
        case Recover():
            return recover(page, operation)
        case Expire():
            return expire(page, operation)
        case Administer():
            return administer(page, operation)
        case Refund():
            return refund(page, operation)
        case _:
            assert_never(operation)


def dispatch(page: Page, operation: Dispatch) -> bool:
    """Change a reserved charge to dispatched, once (compare and set). Returns whether this operation did."""
    charge = page.charges.get(operation.charge_id)
    if charge is None or not charge.open:
        return False
    if charge.state != ChargeState.RESERVED:
        return charge.lease_ms == operation.lease_until_ms
    charge.state = str(ChargeState.DISPATCHED)
    operation.lease_until_ms = charge.lease_ms = page.now_ms + operation.lease_ms
    page.mark_changed(charge)
    return True


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
    return closed


def release(page: Page, operation: Release) -> Result:
    """Give the whole hold back. The charge of a replay holds nothing, and is returned as it is."""
    charge = page.charges.get(operation.charge_id)
    if charge is None:
        return None
    if charge.basis == Basis.CACHE:
        return closed_charge(page, charge)
    return close(page, charge, EntryKind.RELEASE, Basis.NONE, Usage(0, 0), operation.error)


def expire(page: Page, operation: Expire) -> bool:
    """Close a charge whose lease is over. If it was sent, book the checkpoint and forgive the rest; else release it."""
    charge = page.charges.get(operation.charge_id)
    if charge is None or not charge.open or charge.lease_ms >= page.now_ms:
        return False
    basis, usage = usage_at_expiry(charge)
    close(page, charge, EntryKind.EXPIRE, basis, usage, "lease_over")
    return True


def administer(page: Page, operation: Administer) -> tuple[Balance, ...]:
    """Change limits, all or none, and once: the operation may be repeated. Raises NotFound, InvalidRequest."""
    if len({change.key for change in operation.changes}) < len(operation.changes):
        raise InvalidRequest("The same quota is named twice.")
    is_committed = operation.operation_id in page.committed_sources
    windows = []
    for change in operation.changes:
        quota = page.quotas.get(change.key)
        if quota is None:
            raise NotFound("There is no such quota to grant to. Set a limit first.")
        window = page.current_windows[quota.id]
        windows.append((change, quota, window))
        if is_committed:
            continue
        base = change.limit if isinstance(change, SetLimit) else quota.granted
        if not 0 <= base <= MAX_GRANTED or not 0 <= window.granted + _added(change, quota) <= MAX_GRANTED:
            raise InvalidRequest(f"A quota is between 0 and {MAX_GRANTED:,}.")
    if not is_committed:
        page.committed_sources.add(operation.operation_id)
        month = month_of(operation.operation_id)
        for change, quota, window in windows:
            kind, more = EntryKind.GRANT, _added(change, quota)
            if isinstance(change, SetLimit):
                kind = EntryKind.LIMIT
                quota.granted = change.limit
                page.changed_limits[quota.id] = quota
            reason = change.reason or operation.reason
            page.post(window, kind, operation.operation_id, month, granted=more, actor=operation.actor, reason=reason)
    return tuple(balance_of(window) for _, _, window in windows)


def _added(change: LimitChange, quota: QuotaRow) -> int:
    """By how much a change moves the current window. What was granted to it on top of the limit stays."""
    return change.limit - quota.granted if isinstance(change, SetLimit) else change.amount


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
    charge = page.charges.get(charge_id)
    if charge is None:
        raise NotFound("There is no such charge.")
    return charge
