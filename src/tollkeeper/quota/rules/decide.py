"""The verbs, decided in memory on a page whose rows are locked. Pure: no clock, no database, no waiting.

Each verb checks everything before it moves anything, so a refused operation leaves the page as it was; only a refused
`Extend` has released what it was to replace. How calls are admitted is told in `reserving.py`.
"""

from collections.abc import Sequence
from typing import assert_never

from tollkeeper.chat import Usage
from tollkeeper.errors import InvalidRequest, LedgerConflict, NotFound, TollkeeperError
from tollkeeper.quota.rules.admission import extend, reserve
from tollkeeper.quota.rules.idempotency import keep
from tollkeeper.quota.rules.models import Basis, Kind, State
from tollkeeper.quota.rules.operations import (
    Administer,
    Balance,
    Dispatch,
    Expire,
    Extend,
    Operation,
    Refund,
    Release,
    Renew,
    Reserve,
    Result,
    SetLimit,
    Settle,
)
from tollkeeper.quota.rules.page import ChargeRow, Page
from tollkeeper.quota.rules.settlement import balance, close, closed, outcome_of_lapse

MAX_GRANTED = 10**15
"""No window ever holds more: sums stay far inside 64 bits."""


def decide(page: Page, operations: Sequence[Operation]) -> list[Result | TollkeeperError]:
    """Decide each operation in turn; a refusal is an answer like another.

    But a refused `Administer` raises: the quotas that were made for it must go with the transaction.
    """
    answers: list[Result | TollkeeperError] = []
    for operation in operations:
        try:
            answers.append(_decide(page, operation))
        except TollkeeperError as refusal:
            if isinstance(operation, Administer):
                raise
            answers.append(refusal)
    return answers


def _decide(page: Page, operation: Operation) -> Result:
    match operation:
        case Extend():
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
        case Expire():
            return expire(page, operation)
        case Administer():
            return administer(page, operation)
        case Refund():
            return refund(page, operation)
        case _:
            assert_never(operation)


def dispatch(page: Page, operation: Dispatch) -> bool:
    """Compare and set: a reserved charge becomes dispatched, once."""
    charge = page.charges.get(operation.charge_id)
    if charge is None or not charge.open:
        return False
    if charge.state != State.RESERVED:
        return charge.lease_ms == operation.lease_until_ms
    charge.state = str(State.DISPATCHED)
    operation.lease_until_ms = charge.lease_ms = page.now_ms + operation.lease_ms
    page.change(charge)
    return True


def renew(page: Page, operation: Renew) -> set[str]:
    """Move the leases of the open ones. What is known never gets less: the input was bounded and is measured later."""
    gone = set()
    for charge_id, (input_tokens, output_tokens) in operation.checkpoints.items():
        charge = page.charges.get(charge_id)
        if charge is None or not charge.open:
            gone.add(charge_id)
            continue
        charge.checkpoint_input = min(charge.checkpoint_input, input_tokens)
        charge.checkpoint_output = max(charge.checkpoint_output, output_tokens)
        charge.lease_ms = max(charge.lease_ms, page.now_ms + operation.lease_ms)
        page.change(charge)
    return gone


def settle(page: Page, operation: Settle) -> Result:
    """Book a cost: in full when the provider reported it, at most the hold when it was counted. Raises NotFound."""
    charge = _charge(page, operation.charge_id)
    end = close(page, charge, Kind.SETTLE, operation.basis, operation.usage, operation.error)
    if operation.keep is not None:
        keep(page, operation.keep, end)
    return end


def release(page: Page, operation: Release) -> Result:
    """Give the whole hold back; what was answered without one has nothing to give."""
    charge = page.charges.get(operation.charge_id)
    if charge is None:
        return None
    if charge.basis == Basis.CACHE:
        return closed(page, charge)
    return close(page, charge, Kind.RELEASE, Basis.NONE, Usage(0, 0), operation.error)


def expire(page: Page, operation: Expire) -> bool:
    """End a charge nobody renewed: released if nothing went out, else the checkpoint is booked, the rest forgiven."""
    charge = page.charges.get(operation.charge_id)
    if charge is None or not charge.open or charge.lease_ms >= page.now_ms:
        return False
    basis, usage = outcome_of_lapse(charge)
    close(page, charge, Kind.EXPIRE, basis, usage, "lease_over")
    return True


def administer(page: Page, operation: Administer) -> tuple[Balance, ...]:
    """Set limits and top up, all or none. Raises NotFound, InvalidRequest."""
    if len({act.key for act in operation.acts}) < len(operation.acts):
        raise InvalidRequest("The same quota is named twice.")
    done = operation.operation_id in page.done
    windows = []
    for act in operation.acts:
        quota = page.quotas.get(act.key)
        if quota is None:
            raise NotFound("There is no such quota to grant to. Set a limit first.")
        window = page.current[quota.id]
        windows.append((act, quota, window))
        if done:
            continue
        after = act.limit if isinstance(act, SetLimit) else window.granted + act.amount
        if not 0 <= after <= MAX_GRANTED:
            raise InvalidRequest(f"A quota is between 0 and {MAX_GRANTED:,}.")
    if not done:
        for act, quota, window in windows:
            if isinstance(act, SetLimit):
                quota.granted = act.limit
                page.limits[quota.id] = quota
                kind, more = Kind.LIMIT, act.limit - window.granted
            else:
                kind, more = Kind.GRANT, act.amount
            why = act.reason or operation.reason
            page.move(window, kind, operation.operation_id, granted=more, actor=operation.actor, reason=why)
    return tuple(balance(window) for _, _, window in windows)


def refund(page: Page, operation: Refund) -> int:
    """Give back what a charge cost, in the windows that paid. Raises NotFound, LedgerConflict."""
    charge = _charge(page, operation.charge_id)
    if charge.refunded and operation.again:
        return charge.cost_tokens
    if charge.state != State.SETTLED or charge.refunded or not (charge.cost_tokens or charge.cost_micro_usd):
        raise LedgerConflict("Only a settled charge with a cost can be refunded, and only once.")
    charge.refunded = True
    page.change(charge)
    for hold in page.holds[charge.id]:
        cost = charge.cost(hold.window.quota.key.unit)
        page.move(hold.window, Kind.REFUND, charge.id, settled=-cost, actor=operation.actor, reason=operation.reason)
    return charge.cost_tokens


def _charge(page: Page, charge_id: str) -> ChargeRow:
    charge = page.charges.get(charge_id)
    if charge is None:
        raise NotFound("There is no such charge.")
    return charge
