"""Old rows are deleted by a range of an index: the charges of repeated responses, and expired idempotency keys."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import asyncpg
import pytest
from keyed_calls import DAY_S, keyed_call, make_reservation
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.factories import make_terms
from tollkeeper.errors import LedgerUnavailable, NotFound, ProviderUnavailable
from tollkeeper.quota import ledger as ledger_module
from tollkeeper.quota import queries
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS
from tollkeeper.quota.rules.idempotency_keys import KEY_LIFETIME_MS, KeyedRequest
from tollkeeper.quota.stores.base import Store
from tollkeeper.quota.stores.postgres import free_charges as postgres_free_charges
from tollkeeper.quota.stores.postgres import idempotency_keys as postgres_keys
from tollkeeper.quota.stores.postgres.connection import BEGIN, Connection
from tollkeeper.quota.stores.postgres.store import PostgresStore
from tollkeeper.quota.stores.sqlite import free_charges as sqlite_free_charges
from tollkeeper.quota.stores.sqlite import idempotency_keys as sqlite_keys
from tollkeeper.quota.stores.sqlite.store import SqliteStore
from tollkeeper.tenant_scope import ALL_TENANTS

pytestmark = [pytest.mark.stock_postgres, pytest.mark.exhaustive_on_postgres]

DAYS = 30
AGE_MS = DAYS * DAY_S * 1000
ROWS = 3_000
"""Charges of each kind, and keys, in the tests that count what a deletion reads."""
LIMIT = 10
MAX_ROWS_READ = 10 * LIMIT
MAX_STEPS = 400 * LIMIT
"""Instructions of SQLite's virtual machine. To scan one of the tables takes more than four per row."""


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(database_url) as made:
        yield made


async def charge_ids(env: LedgerEnvironment) -> set[str]:
    """Without an audit: these rows are changed by hand."""
    [rows] = await env.reader.read("SELECT id FROM charges")
    return {row[0] for row in rows}


async def test_charges_of_repeated_responses_are_deleted_after_their_time_and_no_others(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "DELETION_BATCH", 3)
    monkeypatch.setattr(ledger_module, "DELETION_PAUSE_S", 0)
    paid = await keyed_call(env)
    repeated = [await keyed_call(env) for _ in range(8)]
    assert all(one.replayed is not None for one in repeated)
    env.clock.step(DAY_S / 2)
    late = await keyed_call(env)
    assert late.replayed is not None
    env.clock.ms += AGE_MS - DAY_S * 500 - 1
    assert await env.ledger.delete_free_charges(AGE_MS) == 0
    env.clock.ms += 1
    assert await env.ledger.delete_free_charges(AGE_MS) == 8
    assert (await env.charges()).keys() == {paid.charge_id, late.charge_id}
    async with env.database.session() as session:
        with pytest.raises(NotFound):
            await queries.charge(session, repeated[0].charge_id, ALL_TENANTS)
    report = await verify(env.database, now_ms=env.clock.ms)
    assert (report.problems, report.charges) == ([], 2)


async def test_released_charges_stay(env: LedgerEnvironment) -> None:
    with suppress(ProviderUnavailable):
        async with env.ledger.reservation(env.caller, make_terms()):
            raise ProviderUnavailable
    env.clock.ms += 10 * AGE_MS
    assert await env.ledger.delete_free_charges(AGE_MS) == 0
    assert (await env.only_charge()).state == "released"


async def test_a_charge_that_a_key_refers_to_stays_and_does_not_keep_the_others(env: LedgerEnvironment) -> None:
    paid, referred, _ = [(await keyed_call(env)).charge_id for _ in range(3)]
    await env.reader.execute(f"UPDATE idempotency_keys SET charge_id = '{referred}'")
    env.clock.ms += AGE_MS
    assert await env.ledger.delete_free_charges(AGE_MS) == 1
    assert await charge_ids(env) == {paid, referred}
    assert await env.ledger.delete_old_keys() == 1
    assert await env.ledger.delete_free_charges(AGE_MS) == 1


async def test_a_charge_with_entries_stays_whatever_its_basis(env: LedgerEnvironment) -> None:
    paid = await keyed_call(env)
    env.clock.ms += AGE_MS
    assert await env.ledger.delete_old_keys() == 1
    await env.reader.execute(f"UPDATE charges SET basis = 'cache' WHERE id = '{paid.charge_id}'")
    assert await env.ledger.delete_free_charges(AGE_MS) == 0
    assert await charge_ids(env) == {paid.charge_id}


async def test_a_response_is_repeated_and_stored_as_long_as_the_setting_says(
    env: LedgerEnvironment, database_url: str
) -> None:
    hour_ms = KEY_LIFETIME_MS // 24
    store: Store = PostgresStore(database_url, env.clock, key_lifetime_ms=hour_ms)
    if database_url.startswith("sqlite:///"):
        store = SqliteStore(Path(database_url.removeprefix("sqlite:///")), env.clock, key_lifetime_ms=hour_ms)
    ledger = Ledger(store, lease_seconds=60)
    ledger.start()
    await keyed_call(env)
    env.clock.step(hour_ms / 1000 - 1)
    async with make_reservation(env, ledger=ledger) as repeated:
        assert repeated.replayed is not None
    assert await ledger.delete_old_keys() == 0
    env.clock.step(1)
    async with make_reservation(env, ledger=ledger) as anew:
        assert anew.replayed is None
    env.clock.step(hour_ms / 1000)
    assert await env.ledger.delete_old_keys() == 0, "another process has the default"
    assert await ledger.delete_old_keys() == 1
    await ledger.stop()


async def test_deleting_charges_fails_with_ledger_unavailable_in_an_outage(env: LedgerEnvironment) -> None:
    env.store.down = True
    with pytest.raises(LedgerUnavailable):
        await env.ledger.delete_free_charges(AGE_MS)


@pytest.mark.parametrize("due", [True, False], ids=["all are due", "none is due"])
async def test_a_deletion_reads_only_what_it_deletes(env: LedgerEnvironment, database_url: str, due: bool) -> None:
    """A table of many rows is never read as a whole: maintenance runs every minute."""
    await _fill(env)
    now_ms = env.clock.ms + (AGE_MS if due else 0)
    expected = LIMIT if due else 0
    if database_url.startswith("sqlite"):
        with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            steps = [0]

            def count() -> None:
                steps[0] += 1

            connection.set_progress_handler(count, 1)
            connection.execute("BEGIN IMMEDIATE")
            assert sqlite_free_charges.delete_free_charges(connection, now_ms - AGE_MS, LIMIT) == expected
            assert sqlite_keys.delete_old_keys(connection, now_ms - KEY_LIFETIME_MS, LIMIT) == expected
            assert steps[0] < MAX_STEPS
        return
    for statistics in ("SELECT 1", "ANALYZE"):
        await env.reader.execute(statistics)
        async with _postgres_transaction(database_url) as other:
            assert await postgres_free_charges.delete_free_charges(other, now_ms, AGE_MS, LIMIT) == expected
            assert await postgres_keys.delete_old_keys(other, now_ms, KEY_LIFETIME_MS, LIMIT) == expected
            read = await other.fetch(
                "SELECT relname, seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables"
                " WHERE seq_tup_read + idx_tup_fetch > 0"
            )
            assert sum(table["seq_tup_read"] + table["idx_tup_fetch"] for table in read) < MAX_ROWS_READ, read


@asynccontextmanager
async def _postgres_transaction(database_url: str) -> AsyncIterator[Connection]:
    """A transaction with the ledger's settings, which is rolled back."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(BEGIN.format(lock_timeout_ms=1_000))
        yield connection
    finally:
        await connection.close()


async def _fill(env: LedgerEnvironment) -> None:
    """Copy one paid and one free charge many times, each paid one with a key."""
    await keyed_call(env, keyed_request=KeyedRequest("first", "a" * 64))
    await keyed_call(env, keyed_request=KeyedRequest("first", "a" * 64))
    await env.reader.execute("DELETE FROM idempotency_keys")
    columns = ", ".join(column for column in CHARGE_COLUMNS if column not in ("id", "created_ms"))
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})"
    await env.reader.execute(
        f"INSERT INTO charges (id, created_ms, {columns})"
        f" {numbers} SELECT substr(id, 1, 28) || (10000000 + n), created_ms, {columns} FROM charges, numbers"
    )
    await env.reader.execute(
        "INSERT INTO idempotency_keys (tenant_id, user_id, key, charge_id, fingerprint, created_ms)"
        " SELECT tenant_id, user_id, id, id, 'a', created_ms FROM charges WHERE basis <> 'cache'"
    )
