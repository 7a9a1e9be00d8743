"""The ledger on SQLite: other processes' locks only delay, and what cannot be opened is an outage."""

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ledger_environment import LedgerEnvironment, batch, open_ledger_environment
from sqlmodel import select

from support.deadlines import TEST_DEADLINE_S
from support.factories import FakeClock, charge_id, make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable, LedgerUnavailable
from tollkeeper.identity.models import Tenant
from tollkeeper.quota.rules.operations import Hold, Renew, Reserve
from tollkeeper.quota.rules.windows import Period
from tollkeeper.quota.stores.base import StoreFailed, StoreLost
from tollkeeper.quota.stores.sqlite import row_cache
from tollkeeper.quota.stores.sqlite import store as sqlite_module
from tollkeeper.quota.stores.sqlite.store import SqliteStore

LEASE_MS = 60_000
HOLD_THE_LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("UPDATE policy SET version = version WHERE tenant_id = 0")
connection.execute("COMMIT")
"""


@pytest.fixture
async def env(sqlite_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(sqlite_url) as made:
        yield made


async def hold_the_lock(sqlite_url: str, seconds: float) -> asyncio.subprocess.Process:
    """Another process in a transaction of its own."""
    path = sqlite_url.removeprefix("sqlite:///")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD_THE_LOCK, path, str(seconds), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    return process


async def test_a_probe_writes_to_the_disk(sqlite_url: str) -> None:
    """Else an outage by a full disk would end while no call can be booked."""
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    log = path.with_name(f"{path.name}-wal")
    store = SqliteStore(path, FakeClock())
    sizes = []
    for _ in range(3):
        await store.probe()
        sizes.append(log.stat().st_size)
    await store.close()
    assert sizes == sorted(set(sizes))


async def use(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(1, 1))


async def test_a_write_lock_of_another_process_only_delays(env: LedgerEnvironment, sqlite_url: str) -> None:
    other = await hold_the_lock(sqlite_url, 0.3)
    await use(env)
    assert env.store.runs == 2, "it waited; it did not fail and try again"
    assert await other.wait() == 0
    assert (await env.window()).settled == 2


async def test_a_write_lock_that_is_held_too_long_is_an_outage_that_passes(
    env: LedgerEnvironment, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "MAX_LOCK_WAIT_S", 0.05)
    other = await hold_the_lock(sqlite_url, 0.5)
    await use(env)
    assert env.store.runs > 2
    assert env.ledger.available
    assert await other.wait() == 0
    assert (await env.window()).settled == 2


async def test_a_reader_does_not_block_writers(env: LedgerEnvironment, sqlite_url: str) -> None:
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM charges").fetchone()
        await use(env)
        assert reader.execute("SELECT count(*) FROM charges").fetchone() == (0,)
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM charges").fetchone() == (1,)
    reader.close()


async def test_a_file_without_the_schema_is_an_outage(tmp_path: Path, env: LedgerEnvironment) -> None:
    store = SqliteStore(tmp_path / "empty.db", FakeClock())
    with pytest.raises(StoreFailed) as failed:
        await batch(store, Reserve(charge_id("a"), env.caller, make_terms(), LEASE_MS))
    assert not failed.value.maybe_committed
    with pytest.raises(StoreFailed):
        await store.find_lapsed(1)
    with pytest.raises(StoreFailed):
        await store.delete_old_keys(1)
    await store.close()


async def test_a_folder_that_is_not_there_is_an_outage(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "nowhere" / "ledger.db", FakeClock())
    with pytest.raises(StoreFailed):
        await batch(store, Renew({}, {}, LEASE_MS))
    await store.close()


async def test_what_is_committed_survives_in_the_file(env: LedgerEnvironment, sqlite_url: str) -> None:
    """WAL with `synchronous=FULL`: a commit is on the disk when it is answered."""
    await use(env)
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


async def test_the_row_cache_is_bounded(env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of every minute that ever was do not fill the memory; forgetting changes no balance."""
    monkeypatch.setattr(row_cache, "MAX_CACHED_ROWS", 3)
    await set_limit(env.ledger, user_quota(env.caller, Period.MINUTE), 10_000)
    for number in range(10):
        [held] = await batch(env.store, Reserve(charge_id(f"c{number}"), env.caller, make_terms(0, 1), LEASE_MS))
        assert isinstance(held, Hold)
        env.clock.step(61)
    assert len(await env.charges()) == 10


def _path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@pytest.mark.parametrize("loss", ["deleted", "replaced"])
async def test_a_missing_file_is_not_written_and_is_used_again_when_it_returns(
    env: LedgerEnvironment, sqlite_url: str, loss: str, tmp_path: Path
) -> None:
    """SQLite alone would continue with the file that no path leads to, and lose every charge written to it."""
    await use(env)
    path, aside = _path(sqlite_url), tmp_path / "aside.db"
    path.rename(aside)
    if loss == "replaced":
        shutil.copy(aside, path)
    with pytest.raises(LedgerUnavailable):
        await use(env)
    assert [env.ledger.available] == [False]
    assert path.exists() == (loss == "replaced")
    with pytest.raises(StoreLost) as raised:
        await env.store.find_lapsed(1)
    assert ("replaced" if loss == "replaced" else "gone") in raised.value.reason
    aside.rename(path)
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not env.ledger.available:
            await asyncio.sleep(0.01)
    await use(env)
    assert len(await env.charges()) == 2


async def test_a_session_on_a_missing_file_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    database = Database(sqlite_url)
    async with database.session() as session:
        await session.exec(select(Tenant))
    _path(sqlite_url).rename(tmp_path / "aside.db")
    with pytest.raises(DatabaseUnavailable):
        await database.session().__aenter__()
    await database.close()
