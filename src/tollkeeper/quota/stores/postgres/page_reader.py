"""Reads the page of a batch on PostgreSQL, under locks.

A plain `SELECT … ORDER BY id FOR UPDATE` returns each row as it is when its lock is granted (PostgreSQL manual, 13.2.1
Read Committed Isolation Level). What must be summed or joined is read by a later statement, under that lock.
"""

from typing import Any

import asyncpg

from tollkeeper.quota.rules.page import CHARGE_COLUMNS, Account, ChargeRow, Page, QuotaKey, ReadSet
from tollkeeper.quota.stores.postgres.connection import NOW_MS, Connection
from tollkeeper.quota.stores.postgres.idempotency_keys import read_keys
from tollkeeper.quota.stores.postgres.policy_cache import PolicyCache
from tollkeeper.quota.stores.postgres.windows import WindowReader
from tollkeeper.quota.stores.rows import quota_row

_READ_POLICY = f"SELECT version, {NOW_MS} FROM policy"
_READ_CHARGES = f"SELECT {', '.join(CHARGE_COLUMNS)} FROM charges WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"
_READ_HOLDS = (
    "SELECT source_id, window_id, sum(pending)::bigint FROM entries WHERE source_id = ANY($1::text[])"
    " GROUP BY source_id, window_id"
)
_API_KEYS_OF = "ARRAY(SELECT {} FROM api_keys WHERE user_id = users.id AND revoked_ms IS NULL ORDER BY id)"
_READ_ACCOUNTS = (
    "SELECT users.id, users.tenant_id, users.disabled_at IS NULL AND tenants.disabled_at IS NULL, users.token_version,"
    f" {_API_KEYS_OF.format('id')}, {_API_KEYS_OF.format('expires_ms')}"
    " FROM users JOIN tenants ON tenants.id = users.tenant_id WHERE users.id = ANY($1::integer[])"
)
_READ_ACCOUNT_QUOTAS = (
    "SELECT users.id, quotas.id, quotas.tenant_id, quotas.user_id, unit, period, granted FROM users JOIN quotas"
    " ON quotas.user_id = users.id OR (quotas.tenant_id = users.tenant_id AND quotas.user_id IS NULL)"
    " WHERE users.id = ANY($1::integer[]) ORDER BY quotas.id"
)
_FIND_QUOTA = (
    "SELECT id, tenant_id, user_id, unit, period, granted FROM quotas"
    " WHERE tenant_id = $1 AND user_id = $2 AND unit = $3 AND period = $4"
    " UNION ALL SELECT id, tenant_id, user_id, unit, period, granted FROM quotas"
    " WHERE tenant_id = $1 AND user_id IS NULL AND $2::integer IS NULL AND unit = $3 AND period = $4"
)
_CREATE_QUOTA = (
    "INSERT INTO quotas (tenant_id, user_id, unit, period, granted) VALUES ($1, $2, $3, $4, 0) ON CONFLICT DO NOTHING"
)
_FIND_SOURCES = "SELECT DISTINCT source_id FROM entries WHERE source_id = ANY($1::text[])"


class PageReader:
    """Reads pages. Between batches it remembers accounts, quotas and the ids of windows."""

    def __init__(self) -> None:
        self._policy = PolicyCache()
        self._windows = WindowReader()

    async def read(self, connection: Connection, read_set: ReadSet, injected_ms: int | None) -> Page:
        """The page of a batch, in its transaction. The time is `injected_ms` or, if that is None, the database's."""
        charges: list[asyncpg.Record] = []
        holds: list[asyncpg.Record] = []
        if read_set.charges:
            charges = await connection.fetch(_READ_CHARGES, sorted(read_set.charges))
            if charges:
                holds = await connection.fetch(_READ_HOLDS, [row[0] for row in charges])
        lock = " FOR UPDATE" if read_set.quotas_to_create else ""
        policy = await connection.fetchrow(_READ_POLICY + lock, injected_ms)
        assert policy is not None
        self._policy.require_version(policy[0])
        page = Page(policy[1])
        page.charges = {row[0]: ChargeRow(*row) for row in charges}
        page.holds = {charge_id: [] for charge_id in page.charges}
        if read_set.keys:
            page.keys = await read_keys(connection, read_set.keys)
        await _read_quotas(connection, read_set, page)
        await self._read_accounts(connection, read_set.callers)
        for user_id in read_set.callers & self._policy.accounts.keys():
            page.accounts[user_id] = self._policy.accounts[user_id]
        await self._windows.read(connection, page, self._policy, [(row[0], row[1], row[2]) for row in holds])
        if read_set.sources:
            sources = await connection.fetch(_FIND_SOURCES, list(read_set.sources))
            page.committed_sources = {row[0] for row in sources}
        return page

    def committed(self) -> None:
        """After the commit: keep what was read."""
        self._windows.committed()

    def clear_uncommitted(self) -> None:
        """After a batch that failed: discard what was read in it."""
        self._policy.clear()
        self._windows.clear_uncommitted()

    async def _read_accounts(self, connection: Connection, callers: set[int]) -> None:
        unknown = sorted(callers - self._policy.accounts.keys())
        if not unknown:
            return
        quotas: dict[int, list[Any]] = {}
        for row in await connection.fetch(_READ_ACCOUNT_QUOTAS, unknown):
            quotas.setdefault(row[0], []).append(quota_row(row[1:]))
        for user_id, tenant_id, active, version, ids, expiries in await connection.fetch(_READ_ACCOUNTS, unknown):
            api_keys = dict(zip(ids, expiries, strict=True))
            account = Account(tenant_id, active, version, tuple(quotas.get(user_id, ())), api_keys)
            self._policy.add(user_id, account)


async def _read_quotas(connection: Connection, read_set: ReadSet, page: Page) -> None:
    for key in sorted(read_set.quotas | read_set.quotas_to_create, key=_lock_order):
        values = (key.subject.tenant_id, key.subject.user_id, key.unit.value, key.period.value)
        row = await connection.fetchrow(_FIND_QUOTA, *values)
        if row is None and key in read_set.quotas_to_create:
            await connection.execute(_CREATE_QUOTA, *values)
            row = await connection.fetchrow(_FIND_QUOTA, *values)
        if row is not None:
            page.quotas[key] = quota_row(row)


def _lock_order(key: QuotaKey) -> tuple[int, int, str, int]:
    return key.subject.tenant_id, key.subject.user_id or 0, key.unit.value, key.period.rank
