"""What an idempotency key says to a call, and what a call leaves under it. Pure, as the verbs are."""

import structlog

from tollkeeper.errors import IdempotencyInFlight, IdempotencyMismatch, PreviousAttemptInterrupted
from tollkeeper.quota.rules.keys import KeyedRequest, KeyName, KeyRow, StoredResponse
from tollkeeper.quota.rules.operations import ClosedCharge, StoreResponse
from tollkeeper.quota.rules.page import ChargeRow, Page

log = structlog.get_logger("tollkeeper.ledger")


def kept_answer(page: Page, name: KeyName, request: KeyedRequest) -> StoredResponse | None:
    """The answer to give again; None when the key is free.

    Raises IdempotencyMismatch, IdempotencyInFlight, PreviousAttemptInterrupted.
    """
    row = _row(page, name)
    if row is None or row.free(page.now_ms):
        return None
    if row.fingerprint != request.fingerprint:
        raise IdempotencyMismatch
    if row.in_flight:
        raise IdempotencyInFlight
    if row.answer is None:
        raise PreviousAttemptInterrupted
    return row.answer


def take(page: Page, name: KeyName, request: KeyedRequest, charge: ChargeRow) -> None:
    """Let the key stand for a new charge, whatever it stood for."""
    page.write_key(KeyRow(name, charge.id, request.fingerprint, page.now_ms, charge.state, charge.basis))


def keep(page: Page, wish: StoreResponse, closed: ClosedCharge) -> None:
    """Store a response under its key, if it still is its key. A failure here loses the stored response, no more."""
    row = page.keys.get(wish.name)
    if row is None or row.charge_id != closed.charge_id:
        return
    try:
        answer = wish.answer(closed)
        storable = answer is None or answer.storable
    except Exception:
        log.exception("ledger.answer_not_kept", charge_id=closed.charge_id)
        return
    if not storable:
        log.warning("ledger.answer_not_kept", charge_id=closed.charge_id)
    elif answer is not None:
        page.write_key(row._replace(answer=answer))


def _row(page: Page, name: KeyName) -> KeyRow | None:
    """The key, with its charge as it stands by now in this batch."""
    row = page.keys.get(name)
    charge = page.charges.get(row.charge_id) if row is not None else None
    if row is None or charge is None:
        return row
    return row._replace(state=charge.state, basis=charge.basis)
