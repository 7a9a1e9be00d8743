"""Idempotency keys on PostgreSQL: locked by name, whether or not there is a row, and read by a later statement.

The lock of a key is an advisory lock, and only its owner writes the key's row. A row lock would not do: two processes
that use a new key at the same time have no row to lock.
"""

import hashlib
from collections.abc import Iterable

from tollkeeper.quota.rules.idempotency_keys import KEY_LIFETIME_MS, KeyName, KeyRow, StoredResponse
from tollkeeper.quota.stores.postgres.connection import NOW_MS, Connection

WANTED_KEYS = "unnest($1::integer[], $2::integer[], $3::text[]) AS wanted (tenant_id, user_id, key)"
MONTH_OF = (
    "to_char(to_timestamp(('x' || left(right({}, 32), 12))::bit(48)::bigint / 1000.0) AT TIME ZONE 'UTC', 'YYYYMM')"
    "::integer"
)
"""`month_of` in SQL."""
_LOCK_KEYS = "SELECT pg_advisory_xact_lock(number) FROM unnest($1::bigint[]) AS number"
_READ_KEYS = (
    "SELECT wanted.tenant_id, wanted.user_id, wanted.key, charge_id, fingerprint, found.created_ms, state, basis,"
    f" status, content_type, body FROM {WANTED_KEYS}, LATERAL (SELECT * FROM idempotency_keys AS key"
    " WHERE key.tenant_id = wanted.tenant_id AND key.user_id = wanted.user_id AND key.key = wanted.key"
    " LIMIT 1) AS found, LATERAL (SELECT state, basis FROM charges WHERE charges.tenant_id = wanted.tenant_id"
    f" AND charges.month = {MONTH_OF.format('found.charge_id')} AND charges.id = found.charge_id LIMIT 1) AS charge"
)
_WRITE_KEYS = (
    "INSERT INTO idempotency_keys"
    " (tenant_id, user_id, key, charge_id, fingerprint, created_ms, status, content_type, body)"
    " SELECT * FROM unnest($1::integer[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::bigint[],"
    " $7::integer[], $8::text[], $9::bytea[])"
    " ON CONFLICT (tenant_id, user_id, key) DO UPDATE SET charge_id = excluded.charge_id,"
    " fingerprint = excluded.fingerprint, created_ms = excluded.created_ms, status = excluded.status,"
    " content_type = excluded.content_type, body = excluded.body"
)
_DELETE_OLD_KEYS = (
    "WITH old AS MATERIALIZED (SELECT tenant_id, user_id, key FROM idempotency_keys"
    f" WHERE created_ms <= {NOW_MS} - $2 ORDER BY created_ms LIMIT $3 FOR UPDATE SKIP LOCKED)"
    " DELETE FROM idempotency_keys USING old"
    " WHERE idempotency_keys.tenant_id = old.tenant_id AND idempotency_keys.user_id = old.user_id"
    " AND idempotency_keys.key = old.key"
)


async def read_keys(connection: Connection, names: Iterable[KeyName]) -> dict[KeyName, KeyRow]:
    """Lock these keys until the end of the transaction, and read those that exist with the state of their charges."""
    wanted = list(names)
    await connection.execute(_LOCK_KEYS, sorted(map(lock_number, wanted)))
    rows = await connection.fetch(_READ_KEYS, *zip(*wanted, strict=True))
    keys = {}
    for tenant_id, user_id, key, charge_id, fingerprint, created_ms, state, basis, *stored in rows:
        name = KeyName(tenant_id, user_id, key)
        response = None if stored[0] is None else StoredResponse(*stored)
        keys[name] = KeyRow(name, charge_id, fingerprint, created_ms, state, basis, response)
    return keys


async def write_keys(connection: Connection, keys: Iterable[KeyRow]) -> None:
    """Insert or update these keys. Their locks are held."""
    rows = [
        (*row.name, row.charge_id, row.fingerprint, row.created_ms, *(row.response or (None, None, None)))
        for row in keys
    ]
    await connection.execute(_WRITE_KEYS, *zip(*rows, strict=True))


async def delete_old_keys(connection: Connection, now_ms: int | None, limit: int) -> int:
    """Delete expired keys, except those whose rows are locked. Returns how many were deleted."""
    status = await connection.execute(_DELETE_OLD_KEYS, now_ms, KEY_LIFETIME_MS, limit)
    return int(status.rsplit(" ", 1)[1])


def lock_number(name: KeyName) -> int:
    """The number of a key's advisory lock: 64 bits. Two keys with the same number only wait for each other."""
    digest = hashlib.blake2b(f"{name.user_id}:{name.key}".encode(), digest_size=8, person=b"idempotency")
    return int.from_bytes(digest.digest(), signed=True)
