"""Charges of repeated responses on SQLite: found by a range of the index `charges_free`, and deleted by their keys."""

import sqlite3

_FIND_FREE_CHARGES = (
    "SELECT tenant_id, month, id FROM charges WHERE basis = 'cache' AND created_ms <= ?"
    " AND NOT EXISTS (SELECT 1 FROM idempotency_keys AS key"
    " WHERE key.tenant_id = charges.tenant_id AND key.charge_id = charges.id)"
    " AND NOT EXISTS (SELECT 1 FROM entries AS entry"
    " WHERE entry.tenant_id = charges.tenant_id AND entry.source_id = charges.id AND entry.month = charges.month)"
    " ORDER BY created_ms LIMIT ?"
)
_DELETE_CHARGE = "DELETE FROM charges WHERE tenant_id = ? AND month = ? AND id = ?"


def delete_free_charges(connection: sqlite3.Connection, until_ms: int, limit: int) -> int:
    """Delete charges of repeated responses created until this time. Returns how many were deleted."""
    found = connection.execute(_FIND_FREE_CHARGES, (until_ms, limit)).fetchall()
    connection.executemany(_DELETE_CHARGE, found)
    return len(found)
