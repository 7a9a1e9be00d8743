"""A tenant's calendar on both databases: what is stored wins, no process opens a window beside another, verify sees."""

import sqlite3
from collections.abc import AsyncIterator

import asyncpg
import pytest
from ledger_environment import LedgerEnvironment, batch, open_ledger_environment
from sqlalchemy import text

from support.factories import charge_id, make_store, make_terms
from tollkeeper.quota import queries
from tollkeeper.quota.audit.problems import Fault
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.rules.operations import BookFree, ClosedCharge, Hold, Reserve
from tollkeeper.quota.rules.page import Subject

DAY_MS, HOUR_MS = 86_400_000, 3_600_000


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(database_url, limit=1_000) as made:
        yield made


async def set_zone(env: LedgerEnvironment, zone: str) -> None:
    async with env.database.session() as session:
        connection = await session.connection()
        await connection.execute(text(f"UPDATE tenants SET time_zone = '{zone}' WHERE id = {env.caller.tenant_id}"))


def reserving(env: LedgerEnvironment, name: str) -> Reserve:
    return Reserve(charge_id(name), env.caller, make_terms(), 60_000)


async def reset_of(env: LedgerEnvironment, name: str) -> int:
    [held] = await batch(env.store, reserving(env, name))
    assert isinstance(held, Hold)
    [balance] = held.balances
    assert balance.resets_ms is not None
    return balance.resets_ms


async def test_a_change_of_the_zone_counts_from_the_end_of_the_window_and_all_readers_agree(
    env: LedgerEnvironment,
) -> None:
    midnight = (env.clock.ms // DAY_MS + 1) * DAY_MS
    assert await reset_of(env, "a") == midnight
    await set_zone(env, "America/New_York")
    assert await reset_of(env, "b") == midnight
    env.clock.ms = midnight
    later = midnight + DAY_MS + 5 * HOUR_MS
    free = BookFree(charge_id("free"), env.caller, make_terms(), 0)
    [shown] = await batch(env.store, free)
    assert isinstance(shown, ClosedCharge)
    async with env.database.session() as session:
        owner = Subject(env.caller.tenant_id, env.caller.user_id)
        [read] = await queries.balances_of(session, [owner], env.clock.ms)
    assert (shown.balances[0].resets_ms, read.resets_ms) == (later, later)
    assert await reset_of(env, "c") == later
    async with env.database.session() as session:
        [read] = await queries.balances_of(session, [owner], env.clock.ms)
    assert (read.resets_ms, read.reserved) == (later, 100)
    assert (await verify(env.database, now_ms=env.clock.ms)).problems == []


async def test_a_process_with_the_old_calendar_opens_no_window_beside_one_of_the_new(
    env: LedgerEnvironment, database_url: str
) -> None:
    """Whatever the processes remember of the tenant, a moment has one window."""
    other = make_store(database_url, env.clock)
    await batch(other, reserving(env, "a"))
    env.clock.ms += 3 * DAY_MS
    await set_zone(env, "Asia/Kathmandu")
    first = await reset_of(env, "b")
    await set_zone(env, "UTC")
    [held] = await batch(other, reserving(env, "c"))
    assert isinstance(held, Hold)
    assert held.balances[0].resets_ms == first
    assert held.balances[0].reserved == 200
    await other.close()
    await env.snapshot()


INSERT = (
    "INSERT INTO windows (tenant_id, quota_id, starts_ms, ends_ms, granted, settled, pending, forgiven, sequence)"
    " SELECT tenant_id, quota_id, starts_ms + {start}, {end}, 0, 0, 0, 0, 1 FROM windows"
)


@pytest.mark.parametrize(
    ("start", "end"), [(1, "ends_ms"), (-5, "starts_ms + 1"), (-5, "ends_ms + 5"), (1, "starts_ms + 2"), (-5, "NULL")]
)
async def test_postgresql_refuses_a_window_that_overlaps_another(postgres_url: str, start: int, end: str) -> None:
    async with open_ledger_environment(postgres_url) as env:
        await reset_of(env, "a")
        connection = await asyncpg.connect(postgres_url)
        try:
            with pytest.raises(asyncpg.ExclusionViolationError, match="overlap"):
                await connection.execute(INSERT.format(start=start, end=end))
            await connection.execute(INSERT.format(start=86_400_000, end="NULL"))
        finally:
            await connection.close()


async def test_verify_finds_windows_that_overlap(sqlite_url: str) -> None:
    async with open_ledger_environment(sqlite_url) as env:
        await reset_of(env, "a")
        with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
            connection.execute(INSERT.format(start=1, end="ends_ms + 1"))
        connection.close()
        faults = {problem.fault for problem in (await verify(env.database, now_ms=env.clock.ms)).problems}
        assert faults == {Fault.WINDOW, Fault.SEQUENCE}
