"""Idempotency keys on PostgreSQL: locked by name, whether or not there is a row, and read by a later statement.

Whoever writes a key's row holds its lock, which is an advisory one: two processes that see a new key at the same time
have no row to wait for.
"""

import hashlib
from collections.abc import Iterable

import asyncpg

from tollkeeper.quota.rules.keys import KEY_LIFETIME_MS, KeyName, KeyRow, StoredResponse

_LOCK = "SELECT pg_advisory_xact_lock(number) FROM unnest($1::bigint[]) AS number"
_READ = (
    "SELECT found.user_id, found.key, charge_id, fingerprint, found.created_ms, state, basis,"
    " status, content_type, body FROM unnest($1::integer[], $2::text[]) AS wanted (user_id, key)"
    " JOIN idempotency_keys AS found ON found.user_id = wanted.user_id AND found.key = wanted.key"
    " JOIN charges ON charges.id = charge_id"
)
_WRITE = (
    "INSERT INTO idempotency_keys (user_id, key, charge_id, fingerprint, created_ms, status, content_type, body)"
    " SELECT * FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::integer[], $7::text[],"
    " $8::bytea[]) ON CONFLICT (user_id, key) DO UPDATE SET charge_id = excluded.charge_id,"
    " fingerprint = excluded.fingerprint, created_ms = excluded.created_ms, status = excluded.status,"
    " content_type = excluded.content_type, body = excluded.body"
)
_FORGET = (
    "WITH old AS MATERIALIZED (SELECT user_id, key FROM idempotency_keys"
    " WHERE created_ms <= coalesce($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) - $2"
    " ORDER BY created_ms LIMIT $3 FOR UPDATE SKIP LOCKED)"
    " DELETE FROM idempotency_keys USING old"
    " WHERE idempotency_keys.user_id = old.user_id AND idempotency_keys.key = old.key"
)


async def read_keys(
    connection: "asyncpg.Connection[asyncpg.Record]", names: Iterable[KeyName]
) -> dict[KeyName, KeyRow]:
    """Lock these keys until the end of the transaction, and read them with the states of their charges."""
    wanted = list(names)
    await connection.execute(_LOCK, sorted(map(_number, wanted)))
    rows = await connection.fetch(_READ, *zip(*wanted, strict=True))
    keys = {}
    for user_id, key, charge_id, fingerprint, created_ms, state, basis, *answer in rows:
        name = KeyName(user_id, key)
        kept = None if answer[0] is None else StoredResponse(*answer)
        keys[name] = KeyRow(name, charge_id, fingerprint, created_ms, state, basis, kept)
    return keys


async def write_keys(connection: "asyncpg.Connection[asyncpg.Record]", keys: Iterable[KeyRow]) -> None:
    rows = [
        (*row.name, row.charge_id, row.fingerprint, row.created_ms, *(row.answer or (None, None, None))) for row in keys
    ]
    await connection.execute(_WRITE, *zip(*rows, strict=True))


async def forget_keys(connection: "asyncpg.Connection[asyncpg.Record]", now_ms: int | None, most: int) -> int:
    """Delete keys that are too old, passing by those that someone is using. Returns how many."""
    done = await connection.execute(_FORGET, now_ms, KEY_LIFETIME_MS, most)
    return int(done.rsplit(" ", 1)[1])


def _number(name: KeyName) -> int:
    """The number of a key's lock: 64 bits. Two keys that share one wait for each other, no more."""
    digest = hashlib.blake2b(f"{name.user_id}:{name.key}".encode(), digest_size=8, person=b"idempotency")
    return int.from_bytes(digest.digest(), signed=True)
