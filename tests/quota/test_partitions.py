"""On PostgreSQL, charges and entries are partitioned by month: a call touches one partition, and needs none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from ledger_environment import LedgerEnvironment, batch, open_ledger_environment
from sqlalchemy.exc import DBAPIError

from support.factories import make_terms
from tollkeeper.chat import Usage
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.partition_maker import PartitionMaker
from tollkeeper.quota.rules.decide import decide
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Operation, Refund, Renew, Reserve, Settle
from tollkeeper.quota.rules.page import ReadSet
from tollkeeper.quota.stores.postgres.connection import BEGIN, Connection
from tollkeeper.quota.stores.postgres.locked_rows import LockedRows
from tollkeeper.quota.stores.postgres.page_reader import PageReader
from tollkeeper.quota.stores.postgres.writes import write
from tollkeeper.quota.time_sorted_ids import month_of, new_id

pytestmark = [pytest.mark.stock_postgres, pytest.mark.postgres_versions]

PARTITIONS = "SELECT name, first_month, month_after FROM ledger_partitions WHERE parent = 'charges' ORDER BY name"
TOUCHED = (
    "SELECT DISTINCT name FROM pg_locks JOIN ledger_partitions ON relation = name::regclass"
    " WHERE pid = pg_backend_pid()"
)


@pytest.fixture
async def env(any_postgres_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(any_postgres_url, limit=10**9) as made:
        yield made


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def this_month() -> int:
    return month_of(new_id("chg"))


def month_after(month: int) -> int:
    return month + (89 if month % 100 == 12 else 1)


def reserve(env: LedgerEnvironment) -> Reserve:
    return Reserve(new_id("chg"), env.caller, make_terms(), 60_000)


def settle(env: LedgerEnvironment, reserved: Reserve) -> Settle:
    return Settle(reserved.charge_id, env.caller.tenant_id, Usage(1, 1), Basis.PROVIDER)


async def drop_partitions(connection: Connection) -> None:
    """All but the default ones: as if no server had made any in time."""
    for row in await connection.fetch("SELECT parent, name FROM ledger_partitions WHERE month_after IS NOT NULL"):
        await connection.execute(f"ALTER TABLE {row['parent']} DETACH PARTITION {row['name']}")
        await connection.execute(f"INSERT INTO {row['parent']} SELECT * FROM {row['name']}")
        await connection.execute(f"DROP TABLE {row['name']}")


async def test_the_partitions_of_this_month_and_the_next_are_there(any_postgres_url: str) -> None:
    month = this_month()
    following = month_after(month)
    async with connected(any_postgres_url) as connection:
        found = {tuple(row) for row in await connection.fetch(PARTITIONS)}
    assert {("charges_default", 0, None), (f"charges_{following}", following, month_after(following))} <= found


async def test_the_statements_of_a_call_touch_the_partition_of_its_month_only(
    env: LedgerEnvironment, any_postgres_url: str
) -> None:
    """The transaction has locked no other when it ends. So it does after the plans are made for good."""
    begun = [reserve(env) for _ in range(4)]
    await batch(env.store, *begun)
    work: list[Operation] = [
        *[settle(env, one) for one in begun[:3]],
        Renew({begun[3].charge_id: (1, 1)}, {begun[3].charge_id: env.caller.tenant_id}, 60_000),
        reserve(env),
    ]
    async with connected(any_postgres_url) as connection:
        reader = PageReader(LockedRows())
        for _ in range(8):
            await connection.execute(BEGIN.format(lock_timeout_ms=1_000))
            read_set = ReadSet()
            for operation in work:
                operation.declare_reads(read_set, retried=True)
            page = await reader.read(connection, read_set, env.clock.ms)
            decide(page, work)
            await write(connection, page)
            touched = {row["name"] for row in await connection.fetch(TOUCHED)}
            await connection.execute("ROLLBACK")
            reader.rolled_back()
    month = this_month()
    assert touched == {f"charges_{month}", f"entries_{month}"}


async def test_charges_of_several_months_are_closed_in_one_batch(env: LedgerEnvironment, any_postgres_url: str) -> None:
    old = Reserve(f"chg_{1_750_000_000_000:012x}{7:020x}", env.caller, make_terms(), 60_000)
    begun = [old, reserve(env)]
    await batch(env.store, *begun)
    await batch(env.store, *[settle(env, one) for one in begun])
    await batch(env.store, Refund(old.charge_id, env.caller.tenant_id, "operator", "test"))
    charges = await env.charges()
    assert [charges[one.charge_id].state for one in begun] == ["settled", "settled"]
    async with connected(any_postgres_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM charges_default") == 1
    await PartitionMaker(env.database).add_missing()
    async with connected(any_postgres_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM charges_default") == 0
        assert await connection.fetchval("SELECT count(*) FROM charges_202506") == 1
    assert (await verify(env.database, now_ms=env.clock.ms)).problems == []


async def test_a_month_without_a_partition_refuses_no_call_and_gets_one_later(
    env: LedgerEnvironment, any_postgres_url: str
) -> None:
    """Several servers try to make it at once, while calls go on. One that waits too long for a lock gives up."""

    async def call() -> None:
        async with env.ledger.reservation(env.caller, make_terms()) as reservation:
            reservation.set_usage(Usage(1, 1))

    async with connected(any_postgres_url) as connection:
        await drop_partitions(connection)
        for _ in range(3):
            await call()
        assert await connection.fetchval("SELECT count(*) FROM charges_default") == 3
        maker = PartitionMaker(env.database)
        attempts = asyncio.gather(*(maker.add_missing() for _ in range(3)), return_exceptions=True)
        for _ in range(3):
            await call()
        assert {type(failure) for failure in await attempts} <= {type(None), DBAPIError, DatabaseUnavailable}
        await maker.add_missing()
        assert await connection.fetchval("SELECT count(*) FROM charges_default") == 0
        assert await connection.fetchval(f"SELECT count(*) FROM charges_{this_month()}") == 6
        assert await connection.fetchval(f"SELECT count(*) FROM entries_{this_month()}") == 14
    report = await verify(env.database, now_ms=env.clock.ms)
    assert (report.problems, report.charges) == ([], 6)


async def test_a_full_default_partition_is_left_to_the_next_migration(
    env: LedgerEnvironment, any_postgres_url: str
) -> None:
    """A server would lock calls out while it moved that many rows."""
    async with connected(any_postgres_url) as connection:
        await drop_partitions(connection)
        await batch(env.store, reserve(env), reserve(env))
        with pytest.raises(asyncpg.RaiseError, match="more than 1 rows of month"):
            await connection.execute(f"SELECT add_ledger_partition({this_month()}, 1)")
        assert await connection.fetchval("SELECT count(*) FROM charges_default") == 2
