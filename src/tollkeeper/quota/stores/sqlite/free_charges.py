"""Charges of repeated responses on SQLite: deleted by a range of the index `charges_free`."""

import sqlite3

_DELETE_FREE_CHARGES = (
    "DELETE FROM charges WHERE (tenant_id, month, id) IN"
    " (SELECT tenant_id, month, id FROM charges WHERE basis = 'cache' AND created_ms <= ?"
    " AND NOT EXISTS (SELECT 1 FROM idempotency_keys AS key"
    " WHERE key.tenant_id = charges.tenant_id AND key.charge_id = charges.id)"
    " AND NOT EXISTS (SELECT 1 FROM entries AS entry"
    " WHERE entry.tenant_id = charges.tenant_id AND entry.source_id = charges.id AND entry.month = charges.month)"
    " ORDER BY created_ms LIMIT ?)"
)


def delete_free_charges(connection: sqlite3.Connection, until_ms: int, limit: int) -> int:
    """Delete charges of repeated responses created until this time. Returns how many were deleted."""
    return connection.execute(_DELETE_FREE_CHARGES, (until_ms, limit)).rowcount
