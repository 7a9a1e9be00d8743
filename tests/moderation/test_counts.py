"""The counts of what rules find: added up in memory, stored once, kept for a while, and never lost to an outage."""

import asyncio

import pytest

from support.factories import FakeClock, make_tenant
from tollkeeper.database import day_counts
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.moderation.counts import Counted, ModerationCounts, list_counts
from tollkeeper.tenant_scope import ALL_TENANTS, TenantScope

DAY_MS = 86_400_000


async def stored(database: Database, scope: TenantScope = ALL_TENANTS) -> list[tuple[str, str, int, int]]:
    async with database.session() as session:
        rows = await list_counts(session, scope, "2000-01-01", "2100-01-01")
    return [(row.day, row.rule, row.calls, row.findings) for row in rows]


async def test_counts_of_several_processes_are_added_up_per_tenant_and_day(database: Database) -> None:
    clock = FakeClock()
    one, other = [await make_tenant(database) for _ in range(2)]
    first, second = ModerationCounts(database, clock), ModerationCounts(database, clock)
    mine, theirs = (Counted(tenant, "r", "input", "block", enforced=True) for tenant in (one, other))
    for process in (first, second):
        process.note(mine, 2)
        process.note(mine, 1)
        process.note(theirs, 5)
        await process.store()
        await process.store()
    clock.ms += DAY_MS
    first.note(mine, 1)
    await first.store()
    rows = await stored(database, TenantScope(one))
    assert [row[1:] for row in rows] == [("r", 4, 6), ("r", 1, 1)]
    assert rows[0][0] < rows[1][0]
    assert [row[1:] for row in await stored(database, TenantScope(other))] == [("r", 2, 10)]
    clock.ms += day_counts.KEPT_DAYS * DAY_MS
    await first.store()
    assert len(await stored(database)) == 1, "old days are deleted"


async def test_counts_wait_while_the_database_is_away_and_are_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id = await make_tenant(database)
    counting = ModerationCounts(database, FakeClock())
    counted = Counted(tenant_id, "r", "input", "flag", enforced=False)
    counting.note(counted, 1)
    session = database.session

    def away() -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(database, "session", away)
    with pytest.raises(DatabaseUnavailable):
        await counting.store()
    monkeypatch.setattr(database, "session", session)
    monkeypatch.setattr(day_counts, "MAX_COUNTED", 1)
    counting.note(counted, 2)
    counting.note(counted._replace(rule="another"), 1)
    counting.start()
    await counting.stop()
    assert [row[1:] for row in await stored(database)] == [("r", 2, 3)]


async def test_the_task_stores_by_itself(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day_counts, "INTERVAL_S", 0.0)
    tenant_id = await make_tenant(database)
    counting = ModerationCounts(database, FakeClock())
    counting.note(Counted(tenant_id, "r", "output", "redact", enforced=True), 1)
    counting.start()
    while not await stored(database):
        await asyncio.sleep(0.01)
    await counting.stop()
