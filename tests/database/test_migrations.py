"""A ledger in use is upgraded from each revision since 0004: every charge, entry and key stays what it was."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from support.factories import FakeClock, make_principal, make_store, make_terms
from support.old_ledger import FEBRUARY_MS, FINGERPRINT, JANUARY_MS, RESPONSE, OldLedger, Row, old_id
from tollkeeper.chat import Price, Usage
from tollkeeper.database.engine import SCHEMA_REVISION, Database, async_url
from tollkeeper.database.migrations import alembic_config, migrate
from tollkeeper.errors import ConfigurationError, IdempotencyInFlight
from tollkeeper.principal import Principal, Role
from tollkeeper.quota import queries
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Settle
from tollkeeper.quota.rules.page import Subject
from tollkeeper.quota.time_sorted_ids import month_of, new_id
from tollkeeper.tenant_scope import ALL_TENANTS

pytestmark = [pytest.mark.stock_postgres, pytest.mark.postgres_versions]

PARTITIONED = ("charges", "entries")
OLD_REVISIONS = ("0004", "0005", "0006", "0007", "0008")
NOW_MS = FEBRUARY_MS + 1_000
TERMS = make_terms(price=Price(2_000_000, 1_000_000, 4_000_000))
CALLERS = [Principal(number, number, Role.MEMBER, 0) for number in (1, 2)]


@pytest.fixture
def old_ledger() -> OldLedger:
    made = OldLedger()
    made.fill()
    return made


async def start_at(database_url: str, revision: str, ledger: OldLedger) -> None:
    """Make the database one of this revision, with the rows of a ledger."""
    config = alembic_config(database_url)
    await asyncio.to_thread(command.downgrade, config, "base")
    await asyncio.to_thread(command.upgrade, config, revision)
    await ledger.insert(database_url)


async def read(database_url: str, table: str, columns: Sequence[str], order: str) -> list[dict[str, Any]]:
    engine = create_async_engine(async_url(database_url))
    async with engine.connect() as connection:
        query = sa.text(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}")
        found = [dict(row._mapping) for row in await connection.execute(query)]
    await engine.dispose()
    return found


async def stored(database_url: str, ledger: OldLedger) -> dict[str, list[Row]]:
    """The rows of the ledger's tables in the columns of old, but for the sources of windows' first entries."""
    orders = {"windows": "id", "charges": "id", "entries": "window_id, sequence", "idempotency_keys": "user_id, key"}
    found = {}
    for table, order in orders.items():
        found[table] = await read(database_url, table, list(ledger.tables[table][0]), order)
    return without_openings(found)


def without_openings(tables: dict[str, list[Row]]) -> dict[str, list[Row]]:
    keys = {"windows": ["id"], "charges": ["id"], "entries": ["window_id", "sequence"]}
    found = {}
    for table in ("windows", "charges", "entries", "idempotency_keys"):
        rows = [row | ({"source_id": "-"} if row.get("kind") == "open" else {}) for row in tables[table]]
        found[table] = sorted(rows, key=lambda row: [row[name] for name in keys.get(table, ["user_id", "key"])])
    return found


@pytest.mark.parametrize(
    "revision",
    [OLD_REVISIONS[0], *(pytest.param(one, marks=pytest.mark.prove_only_on_postgres) for one in OLD_REVISIONS[1:])],
)
async def test_a_ledger_in_use_is_upgraded_and_goes_on(database_url: str, revision: str, old_ledger: OldLedger) -> None:
    await start_at(database_url, revision, old_ledger)
    await asyncio.to_thread(migrate, database_url)
    assert await stored(database_url, old_ledger) == without_openings(old_ledger.tables)
    database, clock = Database(database_url), FakeClock(NOW_MS)
    await database.require_current_schema()
    charges = old_ledger.tables["charges"]
    report = await verify(database, now_ms=NOW_MS)
    assert (report.problems, report.charges, report.open_holds) == ([], len(charges), 2)
    assert report.entries == len(old_ledger.tables["entries"])
    assert report.windows == len(old_ledger.tables["windows"])
    ledger = Ledger(make_store(database_url, clock), lease_seconds=60)
    ledger.start()
    for caller in CALLERS:
        await check_calls(database, ledger, caller, [row for row in charges if row["user_id"] == caller.user_id])
    clock.step(61)
    assert await ledger.sweep() == 1
    newcomer = await make_principal(database)
    assert newcomer.tenant_id == 3, "the numbers go on where they were"
    await ledger.stop()
    assert (await verify(database, now_ms=clock.ms)).problems == []
    await database.close()


async def check_calls(database: Database, ledger: Ledger, caller: Principal, charges: list[Row]) -> None:
    """A stored response is repeated, a key is free or in flight as it was, an open charge settles, another is left."""
    async with database.session() as session:
        owner = Subject(caller.tenant_id, caller.user_id)
        listed = await queries.charges_of(session, owner, before=None, limit=100)
        assert [charge.id for charge in listed] == sorted((row["id"] for row in charges), reverse=True)
        for row in charges:
            found = await queries.charge(session, row["id"], ALL_TENANTS)
            assert (found.tenant_id, found.month) == (caller.tenant_id, month_of(row["id"]))
    async with ledger.reservation(caller, TERMS, KeyedRequest("answered", FINGERPRINT)) as answered:
        assert answered.replayed is not None
        assert answered.replayed.response.body == RESPONSE
    with pytest.raises(IdempotencyInFlight):
        await ledger.reservation(caller, TERMS, KeyedRequest("in flight", FINGERPRINT)).__aenter__()
    async with ledger.reservation(caller, TERMS, KeyedRequest("free", FINGERPRINT)) as made:
        assert made.replayed is None
        made.set_usage(Usage(1, 1))
    if caller.user_id == 1:
        [open_id] = [row["id"] for row in charges if row["closed_ms"] is None]
        closed = await ledger.book(Settle(open_id, caller.tenant_id, Usage(7, 30), Basis.PROVIDER))
        assert (closed.cost_tokens, closed.cost_micro_usd) == (37, 134)


async def test_a_filled_table_becomes_the_partition_of_all_months_until_the_end_of_this_one(
    any_postgres_url: str, old_ledger: OldLedger
) -> None:
    """It is not copied: its rows stay in their file."""
    await start_at(any_postgres_url, "0008", old_ledger)
    await asyncio.to_thread(command.upgrade, alembic_config(any_postgres_url), "0011")
    files = "pg_relation_filenode('{}') AS file, '{}' AS name"
    before = [await read(any_postgres_url, "pg_class", [files.format(name, name)], "1 LIMIT 1") for name in PARTITIONED]
    await asyncio.to_thread(migrate, any_postgres_url)
    after = [
        await read(any_postgres_url, "pg_class", [files.format(f"{name}_past", name)], "1 LIMIT 1")
        for name in PARTITIONED
    ]
    assert before == after
    this_month = month_of(new_id("chg"))
    next_month = this_month + (89 if this_month % 100 == 12 else 1)
    partitions = await read(any_postgres_url, "ledger_partitions", ["name", "first_month", "month_after"], "name")
    for table in PARTITIONED:
        found = [tuple(row.values()) for row in partitions if row["name"].startswith(table)]
        assert found[1:] == [(f"{table}_default", 0, None), (f"{table}_past", 0, next_month)]
        assert found[0][:2] == (f"{table}_{next_month}", next_month)


async def test_the_month_of_every_row_is_that_of_its_charge_or_operation(
    database_url: str, old_ledger: OldLedger
) -> None:
    """Not that of the entry: a refund in February of a charge of January belongs to January."""
    await start_at(database_url, "0008", old_ledger)
    await asyncio.to_thread(migrate, database_url)
    columns = ("tenant_id", "month", "source_id", "kind", "at_ms", "window_id")
    entries = await read(database_url, "entries", columns, "tenant_id, window_id, sequence")
    assert all(entry["month"] == month_of(entry["source_id"]) for entry in entries)
    refunds = [entry for entry in entries if entry["kind"] == "refund"]
    assert {(entry["month"], entry["at_ms"] > JANUARY_MS + 60_000) for entry in refunds} == {(202601, True)}
    assert {entry["month"] for entry in entries if entry["kind"] == "reserve"} == {202601, 202602}
    openings = [entry for entry in entries if entry["kind"] == "open"]
    assert [entry["source_id"] for entry in openings] == [
        old_id("win", entry["at_ms"], entry["window_id"]) for entry in openings
    ]


async def test_after_a_downgrade_the_old_rows_are_what_they_were(database_url: str, old_ledger: OldLedger) -> None:
    await start_at(database_url, "0008", old_ledger)
    openings = "entries", ["window_id", "source_id"], "window_id, sequence"
    before = await read(database_url, *openings)
    await asyncio.to_thread(migrate, database_url)
    await asyncio.to_thread(command.downgrade, alembic_config(database_url), "0008")
    assert await read(database_url, *openings) == before
    assert await stored(database_url, old_ledger) == without_openings(old_ledger.tables)
    assert await read(database_url, "schema_compatibility", ["oldest_revision"], "1") == [{"oldest_revision": "0008"}]


async def test_a_migration_that_fails_leaves_the_database_as_it_was(database_url: str, old_ledger: OldLedger) -> None:
    """Its last table cannot be converted: a charge has an id without a time."""
    lost = old_ledger.charge(1, NOW_MS, state="released", basis="cache", closed_ms=NOW_MS, closed_by="settle")
    lost["id"] = "no id of ours, which is at least as long as one"[:40]
    await start_at(database_url, "0004", old_ledger)
    with pytest.raises(ConfigurationError, match="cannot be migrated"):
        await asyncio.to_thread(migrate, database_url)
    assert await read(database_url, "alembic_version", ["version_num"], "1") == [{"version_num": "0004"}]
    assert await stored(database_url, old_ledger) == without_openings(old_ledger.tables)


async def test_older_code_does_not_serve_on_the_new_keys(database_url: str) -> None:
    [row] = await read(database_url, "schema_compatibility", ["oldest_revision"], "1")
    assert "0009" <= row["oldest_revision"] <= SCHEMA_REVISION


@pytest.mark.parametrize("table", ["charges", "entries", "windows", "idempotency_keys"])
async def test_the_tenant_leads_every_key_of_the_ledger(database_url: str, table: str) -> None:
    """And the month is in each key of what is partitioned. On SQLite the number of a window is its whole key."""
    engine = create_async_engine(async_url(database_url))
    async with engine.connect() as connection:
        keys = await connection.run_sync(lambda sync: unique_keys(sa.inspect(sync), table))
    await engine.dispose()
    if engine.dialect.name == "sqlite" and table == "windows":
        keys.remove(["id"])
    assert keys
    for columns in keys:
        assert columns[0] == "tenant_id"
        assert table not in ("charges", "entries") or "month" in columns


def unique_keys(inspector: sa.Inspector, table: str) -> list[list[str]]:
    found = [inspector.get_pk_constraint(table)["constrained_columns"]]
    found += [list(each["column_names"]) for each in inspector.get_unique_constraints(table)]
    indexes = [each for each in inspector.get_indexes(table) if each["unique"]]
    return found + [[name for name in each["column_names"] if name is not None] for each in indexes]
