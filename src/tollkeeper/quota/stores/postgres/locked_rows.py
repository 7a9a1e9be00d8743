"""Rows that another session keeps locked. An operation that needs one of them waits apart from all others.

A batch waits LOCK_TIMEOUT_MS for its locks. If it does not get one in time, `find` looks for the rows that are locked,
and the batch runs without the operations that need them. As long as rows are known to be locked, every batch does so.
"""

import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

from tollkeeper.quota.rules.idempotency_keys import KeyName
from tollkeeper.quota.rules.page import ReadSet
from tollkeeper.quota.stores.postgres.connection import BEGIN, NOW_MS, Connection
from tollkeeper.quota.stores.postgres.idempotency_keys import WANTED_KEYS, lock_number
from tollkeeper.quota.time_sorted_ids import month_of

LOCK_TIMEOUT_MS = 250
"""How long a batch waits for one lock before it looks for the rows that are locked."""
CONTENDED_LOCK_TIMEOUT_MS = 2_000
"""The same while many processes write to one row: each waits for its turn, and none keeps the row for long."""
SUSPECT_LOCK_TIMEOUT_MS = 20
"""The same for an operation that runs alone because it did not get a lock before, and for a look at locked rows."""
CONTENDED_S = 5.0
REFRESH_INTERVAL_S = 0.05

_BEGIN = BEGIN.format(lock_timeout_ms=SUSPECT_LOCK_TIMEOUT_MS)
Key = tuple[int | str, ...]
"""The primary key of a row. Its last column, `id` of the ledger's tables, identifies the row by itself."""


class _Table(NamedTuple):
    """A table whose rows a batch locks: its key's columns with their types, and the strongest lock that is taken."""

    name: str
    key: dict[str, str]
    lock: str

    def find(self, locking: str = "") -> str:
        """A query of the rows with these keys, one array per column. Each is found by the index of the key."""
        arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(self.key.values(), 1))
        same = " AND ".join(f"{column} = wanted.{column}" for column in self.key)
        return (
            f"SELECT wanted.* FROM unnest({arrays}) AS wanted ({', '.join(self.key)}),"
            f" LATERAL (SELECT 1 FROM {self.name} WHERE {same} {locking or 'LIMIT 1'}) AS found"
        )


_TABLES = {
    table.name: table
    for table in (
        _Table("charges", {"tenant_id": "integer", "month": "integer", "id": "text"}, "FOR UPDATE"),
        _Table("windows", {"tenant_id": "integer", "id": "bigint"}, "FOR UPDATE"),
        _Table("quotas", {"id": "integer"}, "FOR NO KEY UPDATE"),
        _Table("policy", {"tenant_id": "integer"}, "FOR UPDATE"),
        _Table("users", {"id": "integer"}, "FOR KEY SHARE"),
        _Table("tenants", {"id": "integer"}, "FOR KEY SHARE"),
    )
}
_EXISTING = {table.name: table.find() for table in _TABLES.values()}
_FREE = {table.name: table.find(f"{table.lock} SKIP LOCKED") for table in _TABLES.values()}
_LOCKABLE_KEYS = "SELECT number FROM unnest($1::bigint[]) AS number WHERE pg_try_advisory_xact_lock(number)"
_EXISTING_KEYS = (
    f"SELECT wanted.* FROM {WANTED_KEYS}, LATERAL (SELECT 1 FROM idempotency_keys AS key"
    " WHERE key.tenant_id = wanted.tenant_id AND key.user_id = wanted.user_id AND key.key = wanted.key {}) AS found"
)
_FREE_KEYS = _EXISTING_KEYS.format("FOR UPDATE SKIP LOCKED")
_TABLE_OF_KEYS_IS_LOCKED = (
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE relation = 'idempotency_keys'::regclass AND pid <> pg_backend_pid()"
    " AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))"
)
"""Whether another session keeps the table from being written to, as the creation of an index does, or waits to."""
_WINDOWS_OF_CHARGES = (
    "SELECT DISTINCT wanted.tenant_id, window_id"
    " FROM unnest($1::integer[], $2::integer[], $3::text[]) AS wanted (tenant_id, month, id), LATERAL (SELECT window_id"
    " FROM entries WHERE tenant_id = wanted.tenant_id AND source_id = wanted.id AND month = wanted.month ORDER BY kind)"
    " AS entry"
)
_QUOTAS = (
    "SELECT id FROM quotas WHERE user_id = ANY($1::integer[])"
    " UNION ALL SELECT id FROM quotas WHERE tenant_id = ANY($2::integer[]) AND user_id IS NULL"
)
_CURRENT_WINDOWS = (
    "SELECT quotas.tenant_id, last.id FROM quotas JOIN unnest($3::text[]) AS wanted (value)"
    " ON wanted.value = '' OR quotas.kind LIKE 'each%', LATERAL (SELECT id, ends_ms FROM windows"
    " WHERE tenant_id = quotas.tenant_id AND quota_id = quotas.id AND value = wanted.value"
    f" AND starts_ms <= {NOW_MS} ORDER BY starts_ms DESC LIMIT 1) AS last"
    f" WHERE quotas.id = ANY($2::integer[]) AND (last.ends_ms IS NULL OR last.ends_ms > {NOW_MS})"
)
_SEQUENCES = (
    "SELECT wanted.id, sequence FROM unnest($1::integer[], $2::bigint[]) AS wanted (tenant_id, id),"
    " LATERAL (SELECT sequence FROM windows WHERE tenant_id = wanted.tenant_id AND id = wanted.id LIMIT 1) AS found"
)


class LockedRows:
    """The rows that were locked when they were last looked at, by table: the keys of the rows.

    An idempotency key is locked if its row is, or the advisory lock of its name, or the whole table.
    """

    def __init__(self) -> None:
        self._rows: dict[str, dict[int | str, Key]] = {table: {} for table in _TABLES}
        self.names: set[KeyName] = set()
        self._sequences: dict[int, int] = {}
        self._refreshed_at = 0.0
        self._contended_until = 0.0

    def __bool__(self) -> bool:
        return bool(self.names) or any(self._rows.values())

    def among(self, table: str, wanted: Collection[int] | Collection[str]) -> set[int | str]:
        """Those of the `wanted` rows of a table that are locked. A row is wanted by the last column of its key."""
        return self._rows[table].keys() & set(wanted) if self._rows[table] else set()

    @property
    def lock_timeout_ms(self) -> int:
        """How long the next batch waits for a lock."""
        return CONTENDED_LOCK_TIMEOUT_MS if time.monotonic() < self._contended_until else LOCK_TIMEOUT_MS

    async def find(self, connection: Connection, read_set: ReadSet, now_ms: int | None) -> None:
        """Look for locked rows among all that this read set needs. Waits for none of them."""
        await connection.execute(_BEGIN)
        users = [*read_set.callers, *read_set.readers]
        tenants = {*read_set.callers.values(), *read_set.readers.values()}
        for quota in read_set.quotas | read_set.quotas_to_create:
            tenants.add(quota.subject.tenant_id)
            if quota.subject.user_id is not None:
                users.append(quota.subject.user_id)
        charges: list[Key] = [(tenant, month_of(id_), id_) for id_, tenant in read_set.charges.items()]
        quotas = await _fetch(connection, _QUOTAS, users, list(tenants))
        windows = await _fetch(connection, _WINDOWS_OF_CHARGES, *_columns(charges)) if charges else []
        quota_ids = [quota_id for (quota_id,) in quotas]
        windows += await _fetch(connection, _CURRENT_WINDOWS, now_ms, quota_ids, sorted(read_set.values()))
        rows: dict[str, list[Key]] = {
            "charges": charges,
            "windows": windows,
            "quotas": quotas,
            "users": [(user_id,) for user_id in users],
            "tenants": [(tenant_id,) for tenant_id in tenants],
        }
        rows["policy"] = rows["tenants"] if read_set.quotas_to_create | read_set.quotas else []
        await self._look(connection, rows, read_set.keys)

    async def refresh(self, connection: Connection) -> None:
        """Look again at the rows that were locked, at most every REFRESH_INTERVAL_S."""
        if time.monotonic() - self._refreshed_at >= REFRESH_INTERVAL_S:
            await connection.execute(_BEGIN)
            await self._look(connection, {table: list(rows.values()) for table, rows in self._rows.items()}, self.names)

    async def _look(self, connection: Connection, rows: dict[str, list[Key]], names: Collection[KeyName]) -> None:
        """Look at these rows, in a transaction that has begun, and end it."""
        self._refreshed_at = time.monotonic()
        for table, keys in rows.items():
            if keys:
                existing = await _fetch(connection, _EXISTING[table], *_columns(keys))
                free = await _fetch(connection, _FREE[table], *_columns(existing)) if existing else []
                locked = {key[-1]: key for key in set(existing) - set(free)}
                looked_at = {key[-1] for key in keys}
                self._rows[table] = {
                    id_: key for id_, key in self._rows[table].items() if id_ not in looked_at
                } | locked
        if names:
            self.names = (self.names - set(names)) | await _locked_names(connection, list(names))
        await self._drop_contended_windows(connection)
        await connection.execute("ROLLBACK")

    async def _drop_contended_windows(self, connection: Connection) -> None:
        """Batches wait for a window again that others have written to since it was found locked: none keeps it."""
        locked = self._rows["windows"]
        found = dict(await connection.fetch(_SEQUENCES, *_columns(locked.values()))) if locked else {}
        contended = {id_ for id_, sequence in found.items() if self._sequences.get(id_, sequence) != sequence}
        if contended:
            self._contended_until = time.monotonic() + CONTENDED_S
            self._rows["windows"] = {id_: key for id_, key in locked.items() if id_ not in contended}
        self._sequences = {id_: sequence for id_, sequence in found.items() if id_ not in contended}


async def _locked_names(connection: Connection, names: list[KeyName]) -> set[KeyName]:
    if await connection.fetchval(_TABLE_OF_KEYS_IS_LOCKED):
        return set(names)
    lockable = {number for (number,) in await connection.fetch(_LOCKABLE_KEYS, [lock_number(name) for name in names])}
    existing, free = [
        {KeyName(*row) for row in await connection.fetch(statement, *zip(*names, strict=True))}
        for statement in (_EXISTING_KEYS.format("LIMIT 1"), _FREE_KEYS)
    ]
    return {name for name in names if lock_number(name) not in lockable} | (existing - free)


async def _fetch(connection: Connection, statement: str, *values: object) -> list[Key]:
    return [tuple(row) for row in await connection.fetch(statement, *values)]


def _columns(keys: Iterable[Key]) -> list[tuple[int | str, ...]]:
    return list(zip(*keys, strict=True))
