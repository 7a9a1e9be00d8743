"""Charges of repeated responses on SQLite: deleted by a range of the index `charges_free`."""

import sqlite3

_DELETE_FREE_CHARGES = (
    "DELETE FROM charges WHERE id IN (SELECT id FROM charges WHERE basis = 'cache' AND created_ms <= ?"
    " AND NOT EXISTS (SELECT 1 FROM idempotency_keys WHERE charge_id = charges.id)"
    " AND NOT EXISTS (SELECT 1 FROM entries WHERE source_id = charges.id) ORDER BY created_ms LIMIT ?)"
)


def delete_free_charges(connection: sqlite3.Connection, until_ms: int, limit: int) -> int:
    """Delete charges of repeated responses created until this time. Returns how many were deleted."""
    return connection.execute(_DELETE_FREE_CHARGES, (until_ms, limit)).rowcount
