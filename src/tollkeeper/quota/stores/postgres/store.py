"""The ledger on PostgreSQL: one asyncpg connection per process, set-based statements, READ COMMITTED.

A plain `SELECT … ORDER BY id FOR UPDATE` answers with each row as it is once its lock is granted (PostgreSQL manual,
13.2.1 Read Committed Isolation Level); whatever must be summed or joined is read by a later statement, under the lock.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from tollkeeper.clock import Clock
from tollkeeper.quota.rules.models import Charge, Entry, Window
from tollkeeper.quota.rules.page import (
    CHANGING_COLUMNS,
    CHARGE_COLUMNS,
    OPENING_COLUMNS,
    Account,
    ChargeRow,
    EntryRow,
    Page,
    QuotaKey,
    ReadSet,
)
from tollkeeper.quota.stores.base import StoreFailed
from tollkeeper.quota.stores.postgres.keys import forget_keys, read_keys, write_keys
from tollkeeper.quota.stores.postgres.windows import Windows
from tollkeeper.quota.stores.rows import PolicyCache, changing_values, opening_values, quota_row

CONNECT_S = 5.0
COMMAND_S = 10.0
BEGIN = (
    "BEGIN; SET LOCAL lock_timeout = 2000; SET LOCAL statement_timeout = 5000;"
    " SET LOCAL idle_in_transaction_session_timeout = 10000; SET LOCAL synchronous_commit = on;"
    " SET LOCAL jit = off; SET LOCAL enable_seqscan = off"
)
"""Opens a transaction with its settings, in one round trip. Timeouts are in milliseconds.

The settings are local because a connection pool in transaction mode loses those of the session. Plans are cached while
the tables are small and must still be good when the tables are large, so sequential scans are off. Each plan that needs
one (`policy` has a single row and no index) then counts as very costly, and PostgreSQL compiles costly plans: 60 ms a
call with its default settings. So JIT is off, too.
"""
OUTAGES = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.TransactionRollbackError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.UndefinedTableError,
)


def _types(table: type[Charge] | type[Entry] | type[Window], columns: Iterable[str]) -> list[str]:
    """The PostgreSQL type of each column, read off the model, so that the statements cannot drift from the schema."""
    kinds = {"BIGINT": "bigint", "INTEGER": "integer", "BOOLEAN": "boolean"}
    described = {column.name: str(column.type) for column in table.__table__.columns}  # type: ignore[union-attr]
    return [kinds.get(described[column], "text") for column in columns]


def _unnest(types: Iterable[str]) -> str:
    return ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))


_NOW = "coalesce($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
_READ_POLICY = f"SELECT version, {_NOW} FROM policy"
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
_READ_QUOTAS = (
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
_OPEN_QUOTA = (
    "INSERT INTO quotas (tenant_id, user_id, unit, period, granted) VALUES ($1, $2, $3, $4, 0) ON CONFLICT DO NOTHING"
)
_DONE = "SELECT DISTINCT source_id FROM entries WHERE source_id = ANY($1::text[])"
_OPEN_CHARGES = (
    f"INSERT INTO charges ({', '.join(OPENING_COLUMNS)})"
    f" SELECT * FROM unnest({_unnest(_types(Charge, OPENING_COLUMNS))})"
)
_CHANGE_CHARGES = (
    f"UPDATE charges SET {', '.join(f'{column} = new.{column}' for column in CHANGING_COLUMNS)}"
    f" FROM unnest({_unnest(_types(Charge, ('id', *CHANGING_COLUMNS)))}) AS new (id, {', '.join(CHANGING_COLUMNS)})"
    " WHERE charges.id = new.id"
)
_BALANCES = ("granted", "settled", "pending", "forgiven", "sequence")
_WRITE_WINDOWS = (
    f"UPDATE windows SET {', '.join(f'{column} = new.{column}' for column in _BALANCES)}"
    f" FROM unnest({_unnest(['bigint'] * 6)}) AS new (id, {', '.join(_BALANCES)}) WHERE windows.id = new.id"
)
_WRITE_LIMITS = (
    "UPDATE quotas SET granted = new.granted FROM unnest($1::integer[], $2::bigint[]) AS new (id, granted)"
    " WHERE quotas.id = new.id"
)
WRITE_ENTRIES = (
    f"INSERT INTO entries ({', '.join(EntryRow._fields)})"
    f" SELECT * FROM unnest({_unnest(_types(Entry, EntryRow._fields))})"
)
_LAPSED = (
    f"SELECT id FROM charges WHERE closed_ms IS NULL AND lease_ms < {_NOW} ORDER BY lease_ms LIMIT $2"
    " FOR UPDATE SKIP LOCKED"
)


class PostgresStore:
    """The store of a shared install: any number of processes and hosts on one database, on the database's clock."""

    def __init__(self, database_url: str, clock: Clock | None = None) -> None:
        """`clock` replaces the database's own, for tests."""
        self._url = database_url
        self._clock = clock
        self._policy = PolicyCache()
        self._windows = Windows()
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def run(self, needs: ReadSet, decide: Callable[[Page], None]) -> None:
        committing = False
        try:
            connection = await self._connect()
            await connection.execute(BEGIN)
            page = await self._read(connection, needs)
            decide(page)
            if page.dirty:
                await _write(connection, page)
                committing = True
                await connection.execute("COMMIT")
            else:
                await connection.execute("ROLLBACK")
            self._windows.committed()
        except OUTAGES as error:
            await self._abandon()
            raise StoreFailed(_one_line(error), maybe_committed=committing) from error
        except BaseException:
            await self._abandon()
            raise

    async def lapsed(self, most: int) -> list[str]:
        async with self._beside() as connection:
            return [row[0] for row in await connection.fetch(_LAPSED, self._injected_ms(), most)]

    async def forget_keys(self, most: int) -> int:
        async with self._beside() as connection:
            return await forget_keys(connection, self._injected_ms(), most)

    async def probe(self) -> None:
        try:
            connection = await self._connect()
            await connection.execute(f"{BEGIN}; UPDATE policy SET version = version; COMMIT")
        except OUTAGES as error:
            await self._abandon()
            raise StoreFailed(_one_line(error), maybe_committed=False) from error

    async def close(self) -> None:
        await self._abandon()

    async def _connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._url,
                timeout=CONNECT_S,
                command_timeout=COMMAND_S,
                server_settings={"application_name": "tollkeeper-ledger"},
            )
        return self._connection

    @asynccontextmanager
    async def _beside(self) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
        """A connection of its own, out of the batches' way. Raises StoreFailed."""
        try:
            connection = await asyncpg.connect(self._url, timeout=CONNECT_S, command_timeout=COMMAND_S)
            try:
                await connection.execute(BEGIN)
                yield connection
                await connection.execute("COMMIT")
            finally:
                await connection.close()
        except OUTAGES as error:
            raise StoreFailed(_one_line(error), maybe_committed=False) from error

    async def _abandon(self) -> None:
        """Nothing of a failed batch may be remembered; closing the connection rolls back whatever is left of it."""
        self._policy.forget()
        self._windows.forget_uncommitted()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*OUTAGES):
                await connection.close(timeout=1)

    def _injected_ms(self) -> int | None:
        return self._clock.now_ms() if self._clock is not None else None

    async def _read(self, connection: "asyncpg.Connection[asyncpg.Record]", needs: ReadSet) -> Page:
        charges: list[asyncpg.Record] = []
        holds: list[asyncpg.Record] = []
        if needs.charges:
            charges = await connection.fetch(_READ_CHARGES, sorted(needs.charges))
            if charges:
                holds = await connection.fetch(_READ_HOLDS, [row[0] for row in charges])
        lock = " FOR UPDATE" if needs.create else ""
        policy = await connection.fetchrow(_READ_POLICY + lock, self._injected_ms())
        assert policy is not None
        self._policy.at(policy[0])
        page = Page(policy[1])
        page.charges = {row[0]: ChargeRow(*row) for row in charges}
        page.holds = {charge_id: [] for charge_id in page.charges}
        if needs.keys:
            page.keys = await read_keys(connection, needs.keys)
        await self._read_quotas(connection, needs, page)
        await self._read_accounts(connection, needs.callers)
        for user_id in needs.callers & self._policy.accounts.keys():
            page.accounts[user_id] = self._policy.accounts[user_id]
        await self._windows.read(connection, page, self._policy, [(row[0], row[1], row[2]) for row in holds])
        if needs.sources:
            page.done = {row[0] for row in await connection.fetch(_DONE, list(needs.sources))}
        return page

    async def _read_accounts(self, connection: "asyncpg.Connection[asyncpg.Record]", callers: set[int]) -> None:
        unknown = sorted(callers - self._policy.accounts.keys())
        if not unknown:
            return
        quotas: dict[int, list[Any]] = {}
        for row in await connection.fetch(_READ_QUOTAS, unknown):
            quotas.setdefault(row[0], []).append(quota_row(row[1:]))
        for user_id, tenant_id, active, version, ids, expiries in await connection.fetch(_READ_ACCOUNTS, unknown):
            api_keys = dict(zip(ids, expiries, strict=True))
            account = Account(tenant_id, active, version, tuple(quotas.get(user_id, ())), api_keys)
            self._policy.remember(user_id, account)

    async def _read_quotas(self, connection: "asyncpg.Connection[asyncpg.Record]", needs: ReadSet, page: Page) -> None:
        for key in sorted(needs.quotas | needs.create, key=_sortable):
            named = (key.subject.tenant_id, key.subject.user_id, key.unit.value, key.period.value)
            row = await connection.fetchrow(_FIND_QUOTA, *named)
            if row is None and key in needs.create:
                await connection.execute(_OPEN_QUOTA, *named)
                row = await connection.fetchrow(_FIND_QUOTA, *named)
            if row is not None:
                page.quotas[key] = quota_row(row)


def _sortable(key: QuotaKey) -> tuple[int, int, str, int]:
    return key.subject.tenant_id, key.subject.user_id or 0, key.unit.value, key.period.rank


async def _write(connection: "asyncpg.Connection[asyncpg.Record]", page: Page) -> None:
    if page.opened:
        await connection.execute(_OPEN_CHARGES, *columns(map(opening_values, page.opened)))
    if page.changed:
        changed = page.changed.values()
        await connection.execute(_CHANGE_CHARGES, *columns((row.id, *changing_values(row)) for row in changed))
    if page.limits:
        await connection.execute(_WRITE_LIMITS, *columns((row.id, row.granted) for row in page.limits.values()))
    if page.touched:
        touched = page.touched.values()
        balances = ((row.id, row.granted, row.settled, row.pending, row.forgiven, row.sequence) for row in touched)
        await connection.execute(_WRITE_WINDOWS, *columns(balances))
        await connection.execute(WRITE_ENTRIES, *columns(page.entries))
    if page.written_keys:
        await write_keys(connection, page.written_keys.values())


def columns(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows turned into the arrays that `unnest` takes."""
    return list(zip(*rows, strict=True))


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
