"""The verbs, decided in memory on a page whose rows are locked. Pure: no clock, no database, no waiting.

Each verb checks everything before it moves anything, so a refused operation leaves the page as it was.
"""

from collections.abc import Sequence
from typing import assert_never

from tollkeeper.chat import Usage
from tollkeeper.errors import (
    InvalidRequest,
    LedgerConflict,
    LedgerUnavailable,
    NotFound,
    QuotaExceeded,
    QuotaHeld,
    QuotaRefusal,
    TollkeeperError,
    Unauthenticated,
)
from tollkeeper.quota.closing import balance, close, outcome_of_lapse
from tollkeeper.quota.models import Basis, Kind, State, Unit
from tollkeeper.quota.operations import (
    Administer,
    Answer,
    Balance,
    Dispatch,
    Expire,
    Held,
    Operation,
    Refund,
    Release,
    Renew,
    Reserve,
    SetLimit,
    Settle,
    Terms,
)
from tollkeeper.quota.store import ChargeRow, Hold, Page, QuotaRow, WindowRow

MOST_GRANTED = 10**15
"""No window ever holds more: sums stay far inside 64 bits."""

HELD_RETRY_S = 1


def decide(page: Page, operations: Sequence[Operation]) -> list[Answer | TollkeeperError]:
    """Decide each operation in turn; a refusal is an answer like another.

    But a refused `Administer` raises: the quotas that were made for it must go with the transaction.
    """
    answers: list[Answer | TollkeeperError] = []
    for operation in operations:
        try:
            answers.append(_decide(page, operation))
        except TollkeeperError as refusal:
            if isinstance(operation, Administer):
                raise
            answers.append(refusal)
    return answers


def _decide(page: Page, operation: Operation) -> Answer:
    match operation:
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


def reserve(page: Page, operation: Reserve) -> Held:
    """Hold on every window that applies, or refuse with the quota that is in the way.

    Raises Unauthenticated when the user, the tenant or the credential is no longer good, QuotaExceeded, QuotaHeld, and
    LedgerUnavailable when it was committed in vain: its answer was lost for so long that the hold is gone.
    """
    if (existing := page.charges.get(operation.charge_id)) is not None:
        if not existing.open:
            raise LedgerUnavailable
        return Held(existing.id, existing.granted_output)
    account = page.accounts.get(operation.caller.user_id)
    if account is None or not account.accepts(operation.caller):
        raise Unauthenticated
    terms = operation.terms
    windows = [page.current[quota.id] for quota in account.quotas]
    granted_output = _grant_output(windows, terms, page.now_ms)
    holds = _holds(windows, terms, granted_output, page.now_ms)
    price = terms.meter.price
    most = Usage(terms.input_bound, granted_output)
    charge = ChargeRow(
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
        input_bound=terms.input_bound,
        granted_output=granted_output,
        held_tokens=terms.meter.tokens(most),
        held_micro_usd=terms.meter.micro_usd(most),
        checkpoint_input=terms.input_bound,
        checkpoint_output=0,
        created_ms=page.now_ms,
        lease_ms=page.now_ms + operation.lease_ms,
    )
    for window, pending in holds:
        page.move(window, Kind.RESERVE, charge.id, pending=pending)
    page.open_charge(charge, holds)
    return Held(charge.id, granted_output)


def _grant_output(windows: list[WindowRow], terms: Terms, now_ms: int) -> int:
    """The output that fits every window with nothing else in flight, at most what is wanted.

    Raises QuotaExceeded naming the window with the least room when that is below `least_output`, or when the user has
    no token quota of their own.
    """
    if not any(_is_own_token_quota(window.quota) for window in windows):
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
                limit=window.granted,
            )
        fits = terms.meter.most_output(unit, terms.input_bound, window.granted - window.settled)
        if fits < granted:
            granted, tightest = fits, window
    if tightest is not None and granted < terms.least_output:
        raise _refusal(QuotaExceeded, tightest, terms, terms.least_output, now_ms)
    return granted


def _is_own_token_quota(quota: QuotaRow) -> bool:
    return quota.key.unit is Unit.TOKENS and quota.key.subject.user_id is not None


def _holds(windows: list[WindowRow], terms: Terms, granted_output: int, now_ms: int) -> list[Hold]:
    """What the call takes of each window. Raises QuotaHeld when calls in flight are in the way."""
    most = Usage(terms.input_bound, granted_output)
    holds = []
    for window in windows:
        needed = terms.meter.cost(window.quota.key.unit, most) or 0
        if window.settled + window.pending + needed > window.granted:
            raise _refusal(QuotaHeld, window, terms, granted_output, now_ms)
        holds.append(Hold(window, needed))
    return holds


def _refusal(kind: type[QuotaRefusal], window: WindowRow, terms: Terms, output: int, now_ms: int) -> QuotaRefusal:
    """Says when to come back: soon for what calls in flight hold, else when the window is over, if it ever is."""
    until_reset_s = None if window.ends_ms is None else -(-(window.ends_ms - now_ms) // 1000)
    return kind(
        quota=window.quota.name,
        limit=window.granted,
        used=window.settled,
        reserved=window.pending,
        needed=terms.meter.cost(window.quota.key.unit, Usage(terms.input_bound, output)) or 0,
        resets_ms=window.ends_ms,
        retry_after_s=HELD_RETRY_S if kind is QuotaHeld else until_reset_s,
    )


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
    """Move the leases of the open ones; a checkpoint never goes back."""
    gone = set()
    for charge_id, (input_tokens, output_tokens) in operation.checkpoints.items():
        charge = page.charges.get(charge_id)
        if charge is None or not charge.open:
            gone.add(charge_id)
            continue
        charge.checkpoint_input = max(charge.checkpoint_input, input_tokens)
        charge.checkpoint_output = max(charge.checkpoint_output, output_tokens)
        charge.lease_ms = max(charge.lease_ms, page.now_ms + operation.lease_ms)
        page.change(charge)
    return gone


def settle(page: Page, operation: Settle) -> Answer:
    """Book a cost: in full when the provider reported it, at most the hold when it was counted. Raises NotFound."""
    charge = _charge(page, operation.charge_id)
    return close(page, charge, Kind.SETTLE, operation.basis, operation.usage, operation.error)


def release(page: Page, operation: Release) -> Answer:
    """Give the whole hold back."""
    charge = page.charges.get(operation.charge_id)
    if charge is None:
        return None
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
        if not 0 <= after <= MOST_GRANTED:
            raise InvalidRequest(f"A quota is between 0 and {MOST_GRANTED:,}.")
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
