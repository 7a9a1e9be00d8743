"""SQLite beside others: sessions get the write lock, the log stays short, and a disk that fills up is noticed early."""

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment
from structlog.testing import capture_logs

from support.factories import make_tenant, make_terms
from tollkeeper.chat import Usage
from tollkeeper.database.engine import Database
from tollkeeper.errors import LedgerUnavailable
from tollkeeper.identity.accounts import list_tenants
from tollkeeper.quota.stores.sqlite import disk

WRITES = 30
MAX_WAIT_S = 2.0
WRITE_ALL_THE_TIME = """
import sqlite3, sys, time

connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA busy_timeout=0")
print("writing", flush=True)
while True:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        time.sleep(0.0005)
        continue
    connection.execute("UPDATE policy SET version = version WHERE tenant_id = 0")
    time.sleep(0.02)
    connection.execute("COMMIT")
    time.sleep(0.004)
"""


@pytest.fixture
async def env(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LedgerEnvironment]:
    monkeypatch.setattr(disk, "CHECK_INTERVAL_S", 0)
    async with open_ledger_environment(sqlite_url) as made:
        yield made


async def use(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(1, 1))


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


async def test_a_session_gets_the_write_lock_beside_two_ledgers_that_write_all_the_time(sqlite_url: str) -> None:
    """Each writes batches of 20 ms, polls for the lock, and pauses between them as a ledger does."""
    writers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITE_ALL_THE_TIME, path_of(sqlite_url), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    database = Database(sqlite_url)
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert await writer.stdout.readline() == b"writing\n"
        waits = []
        for _ in range(WRITES):
            started_at = time.monotonic()
            await make_tenant(database)
            waits.append(time.monotonic() - started_at)
        assert max(waits) < MAX_WAIT_S
    finally:
        for writer in writers:
            writer.kill()
            await writer.wait()
        await database.close()


async def test_a_session_that_only_reads_needs_no_lock(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await make_tenant(database, "one")
    with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(MAX_WAIT_S), database.session() as session:
            assert [tenant.name for tenant in await list_tenants(session)] == ["one"]
            other.execute("COMMIT")
            other.execute("BEGIN IMMEDIATE")  # the session has no lock, either
        other.execute("ROLLBACK")
    await database.close()


async def test_a_session_that_writes_keeps_others_from_writing_until_its_end(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None, timeout=0)) as other:
        async with database.session() as session:
            connection = await session.connection()
            await connection.exec_driver_sql("UPDATE policy SET version = version")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    await database.close()


async def test_a_long_log_is_truncated_when_no_reader_needs_it(
    env: LedgerEnvironment, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = path_of(f"{sqlite_url}-wal")
    await use(env)
    assert wal.stat().st_size > 0
    monkeypatch.setattr(disk, "MAX_LOG_BYTES", 1)
    with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM charges").fetchone()
        await use(env)
        assert wal.stat().st_size > 0
        reader.execute("COMMIT")
    await use(env)
    assert wal.stat().st_size == 0
    assert len(await env.charges()) == 3


async def test_on_a_disk_that_is_almost_full_calls_are_settled_and_none_is_admitted(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with env.ledger.reservation(env.caller, make_terms()) as reservation:
            monkeypatch.setattr(disk, "MIN_FREE_BYTES", 2**80)
            for _ in range(2):
                with pytest.raises(LedgerUnavailable):
                    await use(env)
            was_available = env.ledger.available
            reservation.set_usage(Usage(7, 30))
        assert (was_available, (await env.only_charge()).cost_tokens) == (False, 37)
        monkeypatch.undo()
        monkeypatch.setattr(disk, "CHECK_INTERVAL_S", 0)
        await use(env)
        assert env.ledger.available
    [refused, healed] = [line for line in logs if line["event"] in ("ledger.unavailable", "ledger.recovered")]
    assert refused["reason"].startswith("disk almost full: ")
    assert refused["reason"].endswith(" MB free")
    assert healed["event"] == "ledger.recovered"
