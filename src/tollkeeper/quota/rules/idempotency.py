"""Looks up, claims and fills idempotency keys. No I/O."""

import structlog

from tollkeeper.errors import IdempotencyInFlight, IdempotencyMismatch, PreviousAttemptInterrupted
from tollkeeper.quota.rules.charge_row import ChargeRow
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, KeyName, KeyRow, StoredResponse
from tollkeeper.quota.rules.operations import ClosedCharge, StoreResponse
from tollkeeper.quota.rules.page import Page

log = structlog.get_logger("tollkeeper.ledger")


def find_response(page: Page, name: KeyName, request: KeyedRequest) -> StoredResponse | None:
    """The response that is stored for a key; None if the key is free.

    Raises IdempotencyMismatch, IdempotencyInFlight, PreviousAttemptInterrupted.
    """
    row = _current_row(page, name)
    if row is None or row.is_free(page.now_ms, page.key_lifetime_ms):
        return None
    if row.fingerprint != request.fingerprint:
        raise IdempotencyMismatch
    if row.in_flight:
        raise IdempotencyInFlight
    if row.response is None:
        raise PreviousAttemptInterrupted
    return row.response


def claim_key(page: Page, name: KeyName, request: KeyedRequest, charge: ChargeRow) -> None:
    """Assign the key to a new charge, in place of any earlier one."""
    page.put_key(KeyRow(name, charge.id, request.fingerprint, page.now_ms, charge.state, charge.basis))


def store_response(page: Page, to_store: StoreResponse, closed: ClosedCharge) -> None:
    """Store a response under its key, unless the key is another charge's by now. Errors are logged, not raised."""
    row = page.keys.get(to_store.name)
    if row is None or row.charge_id != closed.charge_id:
        return
    try:
        response = to_store.render(closed)
        is_storable = response is None or response.fits_row
    except Exception:
        log.exception("ledger.answer_not_kept", charge_id=closed.charge_id)
        return
    if not is_storable:
        log.warning("ledger.answer_not_kept", charge_id=closed.charge_id)
    elif response is not None:
        page.put_key(row._replace(response=response))


def _current_row(page: Page, name: KeyName) -> KeyRow | None:
    """The key, with the state of its charge after the earlier operations of this batch."""
    row = page.keys.get(name)
    charge = page.charges.get(row.charge_id) if row is not None else None
    if row is None or charge is None:
        return row
    return row._replace(state=charge.state, basis=charge.basis)
