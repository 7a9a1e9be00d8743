"""Rows that another session keeps locked. An operation that needs one of them waits apart from all others.

A batch waits LOCK_TIMEOUT_MS for its locks. If it does not get one in time, `find` looks for the rows that are locked,
and the batch runs without the operations that need them. As long as rows are known to be locked, every batch does so.
"""

import time
from collections.abc import Collection

from tollkeeper.quota.rules.idempotency_keys import KeyName
from tollkeeper.quota.rules.page import ReadSet
from tollkeeper.quota.stores.postgres.connection import BEGIN, NOW_MS, Connection
from tollkeeper.quota.stores.postgres.idempotency_keys import lock_number

LOCK_TIMEOUT_MS = 250
"""How long a batch waits for one lock before it looks for the rows that are locked."""
CONTENDED_LOCK_TIMEOUT_MS = 2_000
"""The same while many processes write to one row: each waits for its turn, and none keeps the row for long."""
SUSPECT_LOCK_TIMEOUT_MS = 20
"""The same for an operation that runs alone because it did not get a lock before, and for a look at locked rows."""
CONTENDED_S = 5.0
REFRESH_INTERVAL_S = 0.05

_BEGIN = BEGIN.format(lock_timeout_ms=SUSPECT_LOCK_TIMEOUT_MS)
_TABLES = {
    "charges": ("id", "text", "FOR UPDATE"),
    "windows": ("id", "bigint", "FOR UPDATE"),
    "quotas": ("id", "integer", "FOR NO KEY UPDATE"),
    "policy": ("tenant_id", "integer", "FOR UPDATE"),
    "users": ("id", "integer", "FOR KEY SHARE"),
    "tenants": ("id", "integer", "FOR KEY SHARE"),
}
"""The key of each table whose rows a batch locks, and the strongest lock that it takes."""
_EXISTING = {
    table: f"SELECT {key} FROM {table} WHERE {key} = ANY($1::{kind}[])" for table, (key, kind, _) in _TABLES.items()
}
_FREE = {table: f"{_EXISTING[table]} {lock} SKIP LOCKED" for table, (_, _, lock) in _TABLES.items()}
_LOCKABLE_KEYS = "SELECT number FROM unnest($1::bigint[]) AS number WHERE pg_try_advisory_xact_lock(number)"
_EXISTING_KEYS = (
    "SELECT found.user_id, found.key FROM unnest($1::integer[], $2::text[]) AS wanted (user_id, key)"
    " JOIN idempotency_keys AS found ON found.user_id = wanted.user_id AND found.key = wanted.key"
)
_FREE_KEYS = f"{_EXISTING_KEYS} FOR UPDATE OF found SKIP LOCKED"
_TABLE_OF_KEYS_IS_LOCKED = (
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE relation = 'idempotency_keys'::regclass AND pid <> pg_backend_pid()"
    " AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))"
)
"""Whether another session keeps the table from being written to, as the creation of an index does, or waits to."""
_WINDOWS_OF_CHARGES = "SELECT DISTINCT window_id FROM entries WHERE source_id = ANY($1::text[])"
_QUOTAS = (
    "SELECT id FROM quotas WHERE user_id = ANY($1::integer[])"
    " UNION ALL SELECT id FROM quotas WHERE tenant_id = ANY($2::integer[]) AND user_id IS NULL"
)
_CURRENT_WINDOWS = (
    "SELECT id FROM windows WHERE quota_id = ANY($2::integer[])"
    f" AND starts_ms <= {NOW_MS} AND (ends_ms IS NULL OR ends_ms > {NOW_MS})"
)
_SEQUENCES = "SELECT id, sequence FROM windows WHERE id = ANY($1::bigint[])"


class LockedRows:
    """The rows that were locked when they were last looked at, by table: the keys of the rows.

    An idempotency key is locked if its row is, or the advisory lock of its name, or the whole table.
    """

    def __init__(self) -> None:
        self._rows: dict[str, set[int | str]] = {table: set() for table in _TABLES}
        self.names: set[KeyName] = set()
        self._sequences: dict[int, int] = {}
        self._refreshed_at = 0.0
        self._contended_until = 0.0

    def __bool__(self) -> bool:
        return bool(self.names) or any(self._rows.values())

    def among(self, table: str, wanted: Collection[int] | Collection[str]) -> set[int | str]:
        """Those of the `wanted` rows of a table that are locked."""
        return self._rows[table].intersection(wanted) if self._rows[table] else set()

    @property
    def lock_timeout_ms(self) -> int:
        """How long the next batch waits for a lock."""
        return CONTENDED_LOCK_TIMEOUT_MS if time.monotonic() < self._contended_until else LOCK_TIMEOUT_MS

    async def find(self, connection: Connection, read_set: ReadSet, now_ms: int | None) -> None:
        """Look for locked rows among all that this read set needs. Waits for none of them."""
        await connection.execute(_BEGIN)
        users, tenants = list(read_set.callers), {*read_set.callers.values()}
        for quota in read_set.quotas | read_set.quotas_to_create:
            tenants.add(quota.subject.tenant_id)
            if quota.subject.user_id is not None:
                users.append(quota.subject.user_id)
        charges = list(read_set.charges)
        quotas = await _column(connection, _QUOTAS, users, list(tenants))
        windows = await _column(connection, _WINDOWS_OF_CHARGES, charges)
        windows += await _column(connection, _CURRENT_WINDOWS, now_ms, quotas)
        rows: dict[str, list[int | str]] = {
            "charges": [*charges],
            "windows": windows,
            "quotas": quotas,
            "users": [*users],
            "tenants": [*tenants],
        }
        rows["policy"] = rows["tenants"] if read_set.quotas_to_create | read_set.quotas else []
        await self._look(connection, rows, read_set.keys)

    async def refresh(self, connection: Connection) -> None:
        """Look again at the rows that were locked, at most every REFRESH_INTERVAL_S."""
        if time.monotonic() - self._refreshed_at >= REFRESH_INTERVAL_S:
            await connection.execute(_BEGIN)
            await self._look(connection, {table: list(rows) for table, rows in self._rows.items()}, self.names)

    async def _look(self, connection: Connection, rows: dict[str, list[int | str]], names: Collection[KeyName]) -> None:
        """Look at these rows, in a transaction that has begun, and end it."""
        self._refreshed_at = time.monotonic()
        for table, keys in rows.items():
            if keys:
                existing = await _column(connection, _EXISTING[table], keys)
                self._rows[table].difference_update(keys)
                self._rows[table].update(set(existing) - set(await _column(connection, _FREE[table], existing)))
        if names:
            self.names = (self.names - set(names)) | await _locked_names(connection, list(names))
        await self._drop_contended_windows(connection)
        await connection.execute("ROLLBACK")

    async def _drop_contended_windows(self, connection: Connection) -> None:
        """Batches wait for a window again that others have written to since it was found locked: no one keeps it."""
        found = dict(await connection.fetch(_SEQUENCES, list(self._rows["windows"]))) if self._rows["windows"] else {}
        contended = {id_ for id_, sequence in found.items() if self._sequences.get(id_, sequence) != sequence}
        if contended:
            self._contended_until = time.monotonic() + CONTENDED_S
            self._rows["windows"] -= contended
        self._sequences = {id_: sequence for id_, sequence in found.items() if id_ not in contended}


async def _locked_names(connection: Connection, names: list[KeyName]) -> set[KeyName]:
    if await connection.fetchval(_TABLE_OF_KEYS_IS_LOCKED):
        return set(names)
    lockable = await _column(connection, _LOCKABLE_KEYS, [lock_number(name) for name in names])
    existing, free = [
        {KeyName(*row) for row in await connection.fetch(statement, *zip(*names, strict=True))}
        for statement in (_EXISTING_KEYS, _FREE_KEYS)
    ]
    return {name for name in names if lock_number(name) not in lockable} | (existing - free)


async def _column(connection: Connection, statement: str, *values: object) -> list[int | str]:
    return [row[0] for row in await connection.fetch(statement, *values)]
