"""The statements of a batch read only the rows that they need, in tables of many rows without statistics."""

import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any

import asyncpg
import pytest
from keyed_calls import render_cost
from ledger_environment import LedgerEnvironment, batch, open_ledger_environment

from support.factories import charge_id, make_terms, operation_id, set_limit, tenant_quota, user_quota
from tollkeeper.chat import Usage
from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS
from tollkeeper.quota.rules.decide import decide
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Administer, Operation, Refund, Renew, Reserve, Settle, StoreResponse
from tollkeeper.quota.rules.page import ReadSet
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.stores.postgres.connection import BEGIN, Connection
from tollkeeper.quota.stores.postgres.locked_rows import LockedRows
from tollkeeper.quota.stores.postgres.page_reader import PageReader
from tollkeeper.quota.stores.postgres.writes import write as write_to_postgres
from tollkeeper.quota.stores.sqlite.idempotency_keys import register_functions
from tollkeeper.quota.stores.sqlite.row_cache import RowCache
from tollkeeper.quota.stores.sqlite.writes import write as write_to_sqlite

pytestmark = [pytest.mark.stock_postgres, pytest.mark.exhaustive_on_postgres, pytest.mark.postgres_versions]

CALLS = 16
ROWS = 20_000
"""Further rows of each table."""
MAX_ROWS_READ = 60 * CALLS
LEDGER = ("charges", "entries", "windows", "idempotency_keys")
PLAIN_BEGIN = "BEGIN"
OF_A_TENANT = re.compile(r"\(tenant_id=\?( AND month=\?)?\)")
"""The plan of SQLite that reads all rows of a tenant, or of its month."""
PARTITION = re.compile(r"_(\d{6}|default|past)$")
"""The end of a partition's name."""
LEDGERS_BEGIN = BEGIN.format(lock_timeout_ms=1_000)


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(database_url, limit=10**9) as made:
        await set_limit(made.ledger, tenant_quota(made.caller), 10**9)
        yield made


def reserves(env: LedgerEnvironment, name: str) -> list[Reserve]:
    return [
        Reserve(
            charge_id(f"{name}{number}"),
            env.caller,
            make_terms(),
            60_000,
            keyed_request=KeyedRequest(f"{name}{number}", "-"),
        )
        for number in range(CALLS)
    ]


def settles(env: LedgerEnvironment, reserved: Sequence[Reserve]) -> list[Settle]:
    return [
        Settle(
            one.charge_id,
            env.caller.tenant_id,
            Usage(1, 1),
            Basis.PROVIDER,
            store_response=StoreResponse(one.keyed_request.name(env.caller), render_cost),
        )
        for one in reserved
        if one.keyed_request is not None
    ]


def operations(env: LedgerEnvironment, name: str, previous: str) -> list[Operation]:
    """Calls that end, calls that begin, a renewal, a refund, and a change of a limit."""
    tenant_id = env.caller.tenant_id
    renewed = {charge_id(f"{previous}{number}"): tenant_id for number in range(4)}
    change = SetLimit(user_quota(env.caller, Period.DAY), 10**9)
    return [
        Renew(dict.fromkeys(renewed, (1, 1)), renewed, 60_000),
        *settles(env, reserves(env, previous)),
        Refund(charge_id(f"{previous}0"), tenant_id, "operator", "test"),
        Administer(operation_id(name), (change,), "operator", "test"),
        *reserves(env, name),
    ]


async def fill(env: LedgerEnvironment) -> None:
    """Copy a row of each table many times, within the same tenant and month."""
    charge = ", ".join(column for column in CHARGE_COLUMNS if column not in ("id", "closed_ms"))
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})"
    of_window = "tenant_id, quota_id, granted, settled, pending, forgiven, sequence"
    copied = "SELECT * FROM {} ORDER BY 1 LIMIT 1"
    await env.reader.execute(
        f"INSERT INTO charges (id, closed_ms, {charge}) {numbers}"
        f" SELECT substr(id, 1, 28) || (10000000 + n), 1, {charge} FROM ({copied.format('charges')}) AS one, numbers"
    )
    await env.reader.execute(
        f"INSERT INTO entries (tenant_id, window_id, sequence, month, source_id, kind, at_ms) {numbers}"
        " SELECT tenant_id, window_id, sequence + 1000000 + n, month, substr(source_id, 1, 28) || (10000000 + n), kind,"
        f" at_ms FROM ({copied.format('entries')}) AS one, numbers"
    )
    await env.reader.execute(
        f"INSERT INTO windows (starts_ms, ends_ms, {of_window}) {numbers}"
        f" SELECT -n, 1 - n, {of_window} FROM ({copied.format('windows')}) AS one, numbers"
    )
    await env.reader.execute(
        f"INSERT INTO idempotency_keys (tenant_id, user_id, key, charge_id, fingerprint, created_ms) {numbers}"
        f" SELECT tenant_id, user_id, 'copy ' || n, charge_id, '-', created_ms FROM"
        f" ({copied.format('idempotency_keys')}) AS one, numbers"
    )


async def run(connection: Connection, reader: PageReader, begin: str, work: Sequence[Operation]) -> dict[str, int]:
    """Run a batch in a transaction that is rolled back. Returns how many rows of each table it read."""
    await connection.execute(begin)
    before = await rows_read(connection)
    read_set = ReadSet()
    for operation in work:
        operation.declare_reads(read_set, retried=True)
    page = await reader.read(connection, read_set, 1_700_000_000_000)
    decide(page, work)
    await write_to_postgres(connection, page)
    after = await rows_read(connection)
    await connection.execute("ROLLBACK")
    reader.committed()
    return {table: after[table] - before[table] for table in LEDGER}


async def run_both(connection: Connection, reader: PageReader, begin: str, work: Sequence[Operation]) -> dict[str, int]:
    """Run the batch, and again without changes of limits: then the windows are locked by the first statement.

    Returns how many rows of each table one of them read at most.
    """
    calls = [operation for operation in work if not isinstance(operation, Administer)]
    of_all, of_calls = [await run(connection, reader, begin, one) for one in (work, calls)]
    return {table: max(of_all[table], of_calls[table]) for table in LEDGER}


async def rows_read(connection: Connection) -> dict[str, int]:
    """Rows of each table that were read and are not reported to the server's statistics yet."""
    rows = await connection.fetch(
        "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) AS read FROM pg_stat_xact_user_tables"
    )
    found = dict.fromkeys(LEDGER, 0)
    for row in rows:
        table = PARTITION.sub("", row["relname"])
        found[table] = found.get(table, 0) + row["read"]
    return found


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_batch_reads_what_it_needs_by_plans_of_small_and_of_large_tables(
    env: LedgerEnvironment, database_url: str
) -> None:
    """PostgreSQL keeps a plan after five uses: one that was made for small tables must be good for large ones."""
    work = operations(env, "b", "a")
    if database_url.startswith("sqlite"):
        await batch(env.store, *reserves(env, "a"))
        await fill(env)
        check_sqlite_plans(database_url.removeprefix("sqlite:///"), work, env.clock.ms)
        return
    async with connected(database_url) as connection:
        reader = PageReader(LockedRows())
        for _ in range(8):
            await run_both(connection, reader, LEDGERS_BEGIN, work)
        await batch(env.store, *reserves(env, "a"))
        for _ in range(8):
            small = await run_both(connection, reader, LEDGERS_BEGIN, work)
        await fill(env)
        found = {"kept": await run_both(connection, reader, LEDGERS_BEGIN, work)}
    for name, begin in (("made anew", LEDGERS_BEGIN), ("without settings", PLAIN_BEGIN)):
        async with connected(database_url) as connection:
            reader = PageReader(LockedRows())
            for _ in range(8):
                found[name] = await run_both(connection, reader, begin, work)
    for name, read in found.items():
        assert max(read.values()) < MAX_ROWS_READ, f"{name}: {read}; {small} while the tables were small"


def check_sqlite_plans(path: str, work: Sequence[Operation], now_ms: int) -> None:
    statements: list[str] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        register_functions(connection)
        read_set = ReadSet()
        for operation in work:
            operation.declare_reads(read_set, retried=True)
        connection.execute("BEGIN IMMEDIATE")
        connection.set_trace_callback(statements.append)
        page = RowCache().read(connection, read_set, now_ms)
        decide(page, work)
        write_to_sqlite(connection, page)
        connection.set_trace_callback(None)
        plans: list[Any] = []
        for statement in statements:
            if statement.startswith(("SELECT", "INSERT", "UPDATE")):
                plans += [(row[3], statement) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    searches = [(plan, statement) for plan, statement in plans if any(table in plan for table in LEDGER)]
    assert searches
    assert not [search for search in searches if not search[0].startswith("SEARCH") or OF_A_TENANT.search(search[0])]
