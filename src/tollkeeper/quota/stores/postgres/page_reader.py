"""Reads the page of a batch on PostgreSQL, under locks.

Mostly one statement does it (`locking_read`), because the windows that the callers need are known from before. Else the
rest is read by later statements: first what the callers' accounts are, then their windows.
"""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import structlog

from tollkeeper.quota.rules.accounts import sort_quotas
from tollkeeper.quota.rules.idempotency_keys import KeyName
from tollkeeper.quota.rules.page import Account, Page, QuotaKey, QuotaRow, ReadSet
from tollkeeper.quota.rules.tag_rules import UNTAGGED
from tollkeeper.quota.stores.postgres.connection import Connection
from tollkeeper.quota.stores.postgres.idempotency_keys import lock_keys
from tollkeeper.quota.stores.postgres.locked_rows import LockedRows
from tollkeeper.quota.stores.postgres.locking_read import Found, lock_and_read
from tollkeeper.quota.stores.postgres.policy_cache import PolicyCache
from tollkeeper.quota.stores.postgres.shown_windows import show_windows
from tollkeeper.quota.stores.postgres.tags import read_tags
from tollkeeper.quota.stores.postgres.temporary import write_what_is_due
from tollkeeper.quota.stores.postgres.waiting_jobs import lock_waiting_jobs
from tollkeeper.quota.stores.postgres.wanted_charges import WANTED_CHARGES, charge_keys
from tollkeeper.quota.stores.postgres.windows import WindowReader, WrongGuess
from tollkeeper.quota.stores.rows import (
    APPLIES,
    FIND_ARCHIVED_MONTH,
    GROUPS_OF_USER,
    HAS_TAGS,
    MAX_CLOCK_SKEW_MS,
    NOT_OF_TAGS,
    QUOTA_COLUMNS,
    QUOTAS,
    may_be_archived,
    quota_key_values,
    quota_row,
)

_LOCK_POLICY = "SELECT 1 FROM policy WHERE tenant_id = ANY($1::integer[]) ORDER BY tenant_id FOR UPDATE"
_LOCK_QUOTAS = "SELECT 1 FROM quotas WHERE id = ANY($1::integer[]) ORDER BY id FOR NO KEY UPDATE"
_CALLERS = "unnest($1::integer[], $2::integer[]) AS caller (user_id, tenant_id)"
_USERS = f"{_CALLERS} JOIN users ON users.tenant_id = caller.tenant_id AND users.id = caller.user_id"
_OF_USER = "WHERE tenant_id = users.tenant_id AND user_id = users.id"
_API_KEYS_OF = f"ARRAY(SELECT {{}} FROM api_keys {_OF_USER} AND revoked_ms IS NULL ORDER BY id)"
_GROUPS_OF = (
    f"ARRAY(SELECT {{}} FROM {GROUPS_OF_USER} AND group_members.tenant_id = users.tenant_id"
    " AND group_members.user_id = users.id ORDER BY user_groups.id)"
)
_READ_ACCOUNTS = (
    "SELECT users.id, users.tenant_id, users.disabled_at IS NULL AND tenants.disabled_at IS NULL, users.token_version,"
    f" {HAS_TAGS},"
    f" {_API_KEYS_OF.format('id')}, {_API_KEYS_OF.format('expires_ms')},"
    f" ARRAY(SELECT id FROM sessions {_OF_USER} AND revoked_ms IS NOT NULL AND access_ends_ms > $3),"
    f" {_GROUPS_OF.format('user_groups.name')}, {_GROUPS_OF.format('user_groups.id')},"
    f" {_GROUPS_OF.format('is_default')}"
    f" FROM {_USERS} JOIN tenants ON tenants.id = users.tenant_id"
)
_SELECT_QUOTAS = (
    f"SELECT caller.user_id, {QUOTA_COLUMNS} FROM {_CALLERS} JOIN tenants ON tenants.id = caller.tenant_id"
    f" JOIN quotas ON quotas.tenant_id = caller.tenant_id AND {APPLIES} AND quotas.user_id"
)
_READ_ACCOUNT_QUOTAS = (
    f"{_SELECT_QUOTAS} = caller.user_id UNION ALL {_SELECT_QUOTAS} IS NULL"
    f" AND {NOT_OF_TAGS} AND (quotas.kind <> 'group' OR quotas.subject IN (SELECT group_id::text FROM group_members"
    " WHERE group_members.tenant_id = caller.tenant_id AND group_members.user_id = caller.user_id)) ORDER BY 2"
)
"""Two queries, because one with OR would read the quotas of all tenants."""
_IS_QUOTA = f"{APPLIES} AND quotas.kind = $3 AND quotas.subject = $4 AND unit = $5 AND period = $6"
_FIND_QUOTA = (
    f"SELECT {QUOTA_COLUMNS} FROM {QUOTAS} WHERE quotas.tenant_id = $1 AND user_id = $2 AND {_IS_QUOTA}"
    f" UNION ALL SELECT {QUOTA_COLUMNS} FROM {QUOTAS}"
    f" WHERE quotas.tenant_id = $1 AND user_id IS NULL AND $2::integer IS NULL AND {_IS_QUOTA}"
)
_CREATE_QUOTA = (
    "INSERT INTO quotas (tenant_id, user_id, kind, subject, unit, period, granted, report_only)"
    " VALUES ($1, $2, $3, $4, $5, $6, 0, false) ON CONFLICT DO NOTHING"
)
_FIND_SOURCES = (
    f"SELECT wanted.id FROM {WANTED_CHARGES}, LATERAL (SELECT 1 FROM entries WHERE tenant_id = wanted.tenant_id"
    " AND source_id = wanted.id AND month = wanted.month ORDER BY kind LIMIT 1) AS found"
)

log = structlog.get_logger("tollkeeper.ledger")


class PageReader:
    """Reads pages. Between batches it remembers accounts, quotas and the ids of windows.

    What needs a row in `locked` is not read, but listed in `Page.locked`.
    """

    def __init__(self, locked: LockedRows) -> None:
        self._locked = locked
        self._policy = PolicyCache()
        self._windows = WindowReader(locked)
        self._server_started: datetime | None = None
        self._clock_ahead_ms = 0.0
        """By how much the database's time is ahead of this process's monotonic clock."""

    async def read(
        self, connection: Connection, read_set: ReadSet, injected_ms: int | None, *, guess: bool = True
    ) -> Page:
        """The page of a batch, in its transaction. The time is `injected_ms` or, if that is None, the database's.

        Raises StaleMemory if the database does not have what was remembered: it was restored to an earlier state.
        Raises WrongGuess only with `guess`: the current windows are locked before the time is known.
        """
        locked = ReadSet()
        charges = self._unlocked_charges(read_set.charges, locked)
        names = self._unlocked_keys(read_set.keys, locked)
        changes_quotas = bool(read_set.quotas or read_set.quotas_to_create)
        if names or (charges and changes_quotas):
            await lock_keys(connection, names, charges)
        quotas = await self._read_quotas(connection, read_set, locked) if changes_quotas else {}
        guessed = None if self._locked or changes_quotas or not guess else self._guess(read_set, injected_ms)
        tenants = {*read_set.callers.values(), *read_set.readers.values()}
        found = await lock_and_read(connection, injected_ms, tenants, charges, names, guessed)
        self._check_server(found)
        self._clock_ahead_ms = found.now_ms - time.monotonic() * 1000
        page = Page(found.now_ms, charges=found.charges, keys=found.keys, quotas=quotas)
        page.holds = {charge_id: [] for charge_id in found.charges}
        callers = self._unlocked_callers(read_set.callers, locked)
        page.accounts = await self._read_accounts(connection, callers, found)
        readers = await self._read_accounts(connection, read_set.readers, found) if read_set.readers else {}
        await self._windows.fill(connection, page, read_set, self._policy, found, locked, readers)
        await write_what_is_due(connection, page)
        if readers:
            page.accounts |= readers
            await show_windows(connection, page, read_set, readers)
        if read_set.sources:
            sources = await connection.fetch(_FIND_SOURCES, *charge_keys(read_set.sources))
            page.committed_sources = {row[0] for row in sources}
        if read_set.waiting_jobs:
            page.waiting_jobs = await lock_waiting_jobs(connection, read_set.waiting_jobs)
        if may_be_archived(read_set.charges):
            page.archived_month = await connection.fetchval(FIND_ARCHIVED_MONTH)
        page.locked = locked if self._locked else None
        return page

    def committed(self) -> None:
        """After the commit: keep what was read."""
        self._windows.committed()

    def rolled_back(self) -> None:
        """After a batch that did not get its locks: discard the ids of windows that it created."""
        self._windows.clear_uncommitted()

    def clear_uncommitted(self) -> None:
        """After a batch that failed: discard what was read in it."""
        self._policy.clear()
        self._windows.clear_uncommitted()

    def clear(self) -> None:
        """Remove everything that was remembered."""
        self._policy.clear()
        self._windows.clear()

    def _check_server(self, found: Found) -> None:
        """Forget everything when the server is another one, or was restarted: it may have been restored meanwhile."""
        started = found.server_started
        if started != self._server_started:
            was_known, self._server_started = self._server_started is not None, started
            if was_known:
                log.warning("ledger.database_restarted", started=started.isoformat())
                self.clear()
                if found.windows is not None:
                    raise WrongGuess

    def _guess(self, read_set: ReadSet, injected_ms: int | None) -> dict[int, int] | None:
        """The windows that callers and readers probably need now (id → tenant id); None if that is not known."""
        accounts, readers = self._policy.recall(read_set.callers), self._policy.recall(read_set.readers)
        if accounts is None or readers is None:
            return None
        now_ms = int(time.monotonic() * 1000 + self._clock_ahead_ms) if injected_ms is None else injected_ms
        return self._windows.guess(read_set, accounts, readers, now_ms)

    def _unlocked_charges(self, charges: Mapping[str, int], locked: ReadSet) -> Mapping[str, int]:
        for charge_id in map(str, self._locked.among("charges", charges)):
            locked.charges[charge_id] = charges[charge_id]
        if not locked.charges:
            return charges
        return {charge_id: tenant for charge_id, tenant in charges.items() if charge_id not in locked.charges}

    def _unlocked_keys(self, names: Iterable[KeyName], locked: ReadSet) -> list[KeyName]:
        locked.keys.update(self._locked.names.intersection(names))
        return [name for name in names if name not in locked.keys]

    def _unlocked_callers(self, callers: Mapping[int, int], locked: ReadSet) -> dict[int, int]:
        users = self._locked.among("users", callers)
        tenants = self._locked.among("tenants", callers.values())
        for user_id, tenant_id in callers.items():
            if user_id in users or tenant_id in tenants:
                locked.callers[user_id] = tenant_id
        return {user_id: tenant_id for user_id, tenant_id in callers.items() if user_id not in locked.callers}

    async def _read_quotas(
        self, connection: Connection, read_set: ReadSet, locked: ReadSet
    ) -> dict[QuotaKey, QuotaRow]:
        """Lock and read the quotas that are to change, and create missing ones.

        Their tenants' policy rows are locked first, because the change of a quota writes to them.
        """
        keys = sorted(read_set.quotas | read_set.quotas_to_create, key=_lock_order)
        tenants = {key.subject.tenant_id for key in keys}
        locked_tenants = self._locked.among("policy", tenants)
        locked.quotas.update(key for key in keys if key.subject.tenant_id in locked_tenants)
        await connection.execute(_LOCK_POLICY, sorted(tenants - locked_tenants))
        found = {}
        for key in keys:
            if key not in locked.quotas:
                row = await _find_quota(connection, key, create=key in read_set.quotas_to_create)
                if row is not None:
                    found[key] = row
        locked_quotas = self._locked.among("quotas", [quota.id for quota in found.values()])
        locked.quotas.update(key for key, quota in found.items() if quota.id in locked_quotas)
        found = {key: quota for key, quota in found.items() if key not in locked.quotas}
        await connection.execute(_LOCK_QUOTAS, sorted(quota.id for quota in found.values()))
        return found

    async def _read_accounts(
        self, connection: Connection, callers: Mapping[int, int], found: Found
    ) -> dict[int, Account]:
        versions = found.versions
        accounts = self._policy.find(callers, versions)
        unknown = sorted(callers.keys() - accounts.keys())
        if not unknown:
            return accounts
        quotas: dict[int, list[Any]] = {}
        tenants = [callers[user_id] for user_id in unknown]
        for row in await connection.fetch(_READ_ACCOUNT_QUOTAS, unknown, tenants):
            quotas.setdefault(row[0], []).append(quota_row(row[1:]))
        rows = await connection.fetch(_READ_ACCOUNTS, unknown, tenants, found.now_ms - MAX_CLOCK_SKEW_MS)
        tagged = {tenant_id for _, tenant_id, _, _, has_tags, *_ in rows if has_tags}
        tags = await read_tags(connection, self._policy, tagged, versions) if tagged else {}
        for user_id, tenant_id, active, version, _, ids, expiries, revoked, *of_groups in rows:
            api_keys = dict(zip(ids, expiries, strict=True))
            always, parts = sort_quotas(user_id, quotas.get(user_id, ()))
            names, group_ids, are_default = of_groups
            default = next((one for one, is_default in zip(group_ids, are_default, strict=True) if is_default), None)
            groups = dict(zip(names, group_ids, strict=True))
            accounts[user_id] = Account(
                tenant_id,
                active,
                version,
                always,
                api_keys,
                frozenset(revoked),
                parts,
                groups,
                default,
                tags.get(tenant_id, UNTAGGED),
            )
            if callers[user_id] in versions:
                self._policy.add(user_id, accounts[user_id], versions[callers[user_id]])
        return accounts


async def _find_quota(connection: Connection, key: QuotaKey, *, create: bool) -> QuotaRow | None:
    values = quota_key_values(key)
    row = await connection.fetchrow(_FIND_QUOTA, *values)
    is_new = row is None and create
    if is_new:
        await connection.execute(_CREATE_QUOTA, *values)
        row = await connection.fetchrow(_FIND_QUOTA, *values)
    if row is None:
        return None
    quota = quota_row(row).of(key.subject.value)
    quota.is_new = is_new
    return quota


def _lock_order(key: QuotaKey) -> tuple[int, int, str, str, str, int]:
    subject = key.subject
    return (
        subject.tenant_id,
        subject.user_id or 0,
        subject.kind.value,
        subject.name,
        key.unit.value,
        key.period.rank,
    )
