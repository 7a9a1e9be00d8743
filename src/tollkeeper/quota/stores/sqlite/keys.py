"""Idempotency keys on SQLite: read and written a row at a time, under the write lock that every batch has."""

import sqlite3

from tollkeeper.quota.rules.keys import KEY_LIFETIME_MS, KeyName, KeyRow, StoredResponse

_READ = (
    "SELECT charge_id, fingerprint, idempotency_keys.created_ms, state, basis, status, content_type, body"
    " FROM idempotency_keys JOIN charges ON charges.id = charge_id WHERE idempotency_keys.user_id = ? AND key = ?"
)
_WRITE = (
    "INSERT INTO idempotency_keys (user_id, key, charge_id, fingerprint, created_ms, status, content_type, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (user_id, key) DO UPDATE SET charge_id = excluded.charge_id,"
    " fingerprint = excluded.fingerprint, created_ms = excluded.created_ms, status = excluded.status,"
    " content_type = excluded.content_type, body = excluded.body"
)
_FORGET = (
    "DELETE FROM idempotency_keys WHERE rowid IN"
    " (SELECT rowid FROM idempotency_keys WHERE created_ms <= ? ORDER BY created_ms LIMIT ?)"
)


def read_key(connection: sqlite3.Connection, name: KeyName) -> KeyRow | None:
    """A key with the state of its charge."""
    row = connection.execute(_READ, name).fetchone()
    if row is None:
        return None
    charge_id, fingerprint, created_ms, state, basis, *kept = row
    answer = None if kept[0] is None else StoredResponse(*kept)
    return KeyRow(name, charge_id, fingerprint, created_ms, state, basis, answer)


def write_key(connection: sqlite3.Connection, row: KeyRow) -> None:
    answer = row.answer or (None, None, None)
    connection.execute(_WRITE, (*row.name, row.charge_id, row.fingerprint, row.created_ms, *answer))


def forget_keys(connection: sqlite3.Connection, now_ms: int, most: int) -> int:
    """Delete keys that are too old. Returns how many."""
    return connection.execute(_FORGET, (now_ms - KEY_LIFETIME_MS, most)).rowcount
