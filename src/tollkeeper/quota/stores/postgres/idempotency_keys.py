"""Idempotency keys on PostgreSQL: locked by name, whether or not there is a row, and read by a later statement.

The lock of a key is an advisory lock, and only its owner writes the key's row. A row lock would not do: two processes
that use a new key at the same time have no row to lock.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tollkeeper.quota.rules.idempotency_keys import KeyName, KeyRow, StoredResponse
from tollkeeper.quota.stores.postgres.connection import NOW_MS, Connection
from tollkeeper.quota.stores.postgres.wanted_charges import WANTED_CHARGES, charge_keys

WANTED_KEYS = "unnest($1::integer[], $2::integer[], $3::text[]) AS wanted (tenant_id, user_id, key)"
MONTH_OF = (
    "to_char(to_timestamp(('x' || left(right({}, 32), 12))::bit(48)::bigint / 1000.0) AT TIME ZONE 'UTC', 'YYYYMM')"
    "::integer"
)
"""`month_of` in SQL."""
_LOCK_KEYS = (
    f"WITH charge AS MATERIALIZED (SELECT count(*) FROM {WANTED_CHARGES}, LATERAL (SELECT 1 FROM charges"
    " WHERE tenant_id = wanted.tenant_id AND month = wanted.month AND id = wanted.id FOR UPDATE) AS found)"
    " SELECT pg_advisory_xact_lock(number) FROM charge, unnest($4::bigint[]) AS number"
)
"""All charges are counted, and so locked, before the first key."""
FOUND_KEYS = (
    "SELECT 'key', ROW(wanted.tenant_id, wanted.user_id, wanted.key, charge_id, fingerprint, found.created_ms, state,"
    " basis, status, content_type, body)"
    " FROM unnest({}::integer[], {}::integer[], {}::text[]) AS wanted (tenant_id, user_id, key), LATERAL"
    " (SELECT * FROM idempotency_keys AS key WHERE key.tenant_id = wanted.tenant_id AND key.user_id = wanted.user_id"
    " AND key.key = wanted.key LIMIT 1) AS found, LATERAL (SELECT state, basis FROM charges WHERE"
    " charges.tenant_id = wanted.tenant_id"
    f" AND charges.month = {MONTH_OF.format('found.charge_id')} AND charges.id = found.charge_id LIMIT 1) AS charge"
)
"""The keys of these tenants, users and names, as records for `key_row`, with the state of their charges."""
_DELETE_OLD_KEYS = (
    "WITH old AS MATERIALIZED (SELECT tenant_id, user_id, key FROM idempotency_keys"
    f" WHERE created_ms <= {NOW_MS} - $2 ORDER BY created_ms LIMIT $3 FOR UPDATE SKIP LOCKED)"
    " DELETE FROM idempotency_keys USING old"
    " WHERE idempotency_keys.tenant_id = old.tenant_id AND idempotency_keys.user_id = old.user_id"
    " AND idempotency_keys.key = old.key"
)


async def lock_keys(connection: Connection, names: Iterable[KeyName], charges: Mapping[str, int]) -> None:
    """Lock these charges (id → tenant id), which come first in the order of locks, and these keys."""
    await connection.execute(_LOCK_KEYS, *charge_keys(charges), sorted(map(lock_number, names)))


def key_row(found: Sequence[Any]) -> KeyRow:
    """From a record of `FOUND_KEYS`."""
    tenant_id, user_id, key, charge_id, fingerprint, created_ms, state, basis, *stored = found
    response = None if stored[0] is None else StoredResponse(*stored)
    return KeyRow(KeyName(tenant_id, user_id, key), charge_id, fingerprint, created_ms, state, basis, response)


def key_values(keys: Iterable[KeyRow]) -> list[tuple[Any, ...]]:
    """The rows of these keys, as they are written. The locks of the keys are held."""
    return [
        (*row.name, row.charge_id, row.fingerprint, row.created_ms, *(row.response or (None, None, None)))
        for row in keys
    ]


async def delete_old_keys(connection: Connection, now_ms: int | None, lifetime_ms: int, limit: int) -> int:
    """Delete keys that are as old as that, except those whose rows are locked. Returns how many were deleted."""
    status = await connection.execute(_DELETE_OLD_KEYS, now_ms, lifetime_ms, limit)
    return int(status.rsplit(" ", 1)[1])


def lock_number(name: KeyName) -> int:
    """The number of a key's advisory lock: 64 bits. Two keys with the same number only wait for each other."""
    digest = hashlib.blake2b(f"{name.user_id}:{name.key}".encode(), digest_size=8, person=b"idempotency")
    return int.from_bytes(digest.digest(), signed=True)
