"""Idempotency keys on SQLite: read and written one row at a time, under the write lock of the batch."""

import sqlite3
from collections.abc import Iterable

from tollkeeper.quota.rules.idempotency_keys import KeyName, KeyRow, StoredResponse
from tollkeeper.quota.time_sorted_ids import month_of

_READ_KEY = (
    "SELECT charge_id, fingerprint, idempotency_keys.created_ms, state, basis, status, content_type, body"
    " FROM idempotency_keys JOIN charges ON charges.tenant_id = idempotency_keys.tenant_id"
    " AND charges.month = month_of(charge_id) AND charges.id = charge_id"
    " WHERE idempotency_keys.tenant_id = ? AND idempotency_keys.user_id = ? AND key = ?"
)
"""`month_of` is the function in Python, which `register_functions` adds to a connection."""
_WRITE_KEY = (
    "INSERT INTO idempotency_keys"
    " (tenant_id, user_id, key, charge_id, fingerprint, created_ms, status, content_type, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (tenant_id, user_id, key) DO UPDATE SET charge_id = excluded.charge_id,"
    " fingerprint = excluded.fingerprint, created_ms = excluded.created_ms, status = excluded.status,"
    " content_type = excluded.content_type, body = excluded.body"
)
_DELETE_OLD_KEYS = (
    "DELETE FROM idempotency_keys WHERE rowid IN"
    " (SELECT rowid FROM idempotency_keys WHERE created_ms <= ? ORDER BY created_ms LIMIT ?)"
)


def register_functions(connection: sqlite3.Connection) -> None:
    """Add the functions that the statements call. Must be called once per connection."""
    connection.create_function("month_of", 1, month_of, deterministic=True)


def read_keys(connection: sqlite3.Connection, names: Iterable[KeyName]) -> dict[KeyName, KeyRow]:
    """Read those of these keys that exist, with the state of their charges."""
    keys = {}
    for name in names:
        row = connection.execute(_READ_KEY, name).fetchone()
        if row is not None:
            charge_id, fingerprint, created_ms, state, basis, *stored = row
            response = None if stored[0] is None else StoredResponse(*stored)
            keys[name] = KeyRow(name, charge_id, fingerprint, created_ms, state, basis, response)
    return keys


def write_keys(connection: sqlite3.Connection, keys: Iterable[KeyRow]) -> None:
    """Insert or update these keys."""
    for row in keys:
        response = row.response or (None, None, None)
        connection.execute(_WRITE_KEY, (*row.name, row.charge_id, row.fingerprint, row.created_ms, *response))


def delete_old_keys(connection: sqlite3.Connection, until_ms: int, limit: int) -> int:
    """Delete keys created until this time. Returns how many were deleted."""
    return connection.execute(_DELETE_OLD_KEYS, (until_ms, limit)).rowcount
