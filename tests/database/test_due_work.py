"""One statement looks at all queues, and wakes the runners of those in which something is due."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import ColumnElement, literal

from tollkeeper.batches.repository import has_due as has_due_batch
from tollkeeper.clock import SystemClock
from tollkeeper.database import due_work
from tollkeeper.database.due_work import NOW_MS, DueWork
from tollkeeper.database.engine import Database
from tollkeeper.documents.repository import has_due as has_due_document
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.jobs.repository import has_due as has_due_job
from tollkeeper.webhooks.queue import has_due as has_due_delivery


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.close()


def is_past(at_ms: int) -> ColumnElement[bool]:
    return literal(at_ms) <= NOW_MS


async def test_only_the_runners_of_queues_with_due_work_are_woken(database: Database) -> None:
    clock, woken = SystemClock(), list[str]()
    work = DueWork(database, clock)
    work.add(is_past(clock.now_ms() - 1), lambda: woken.append("due"))
    work.add(is_past(clock.now_ms() + 60_000), lambda: woken.append("later"))
    await work.look()
    assert woken == ["due"]


async def test_every_queue_of_an_empty_database_has_nothing_due(database: Database) -> None:
    woken = list[str]()
    work = DueWork(database, SystemClock())
    for has_due in (has_due_job, has_due_batch, has_due_document, has_due_delivery):
        work.add(has_due(NOW_MS), lambda: woken.append("due"))
    await work.look()
    assert woken == []


async def test_while_the_database_is_away_every_runner_is_woken_so_that_it_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_work, "INTERVAL_S", 0.001)
    work, woken = DueWork(database, SystemClock()), asyncio.Event()
    work.add(is_past(0), woken.set)

    async def fail() -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(work, "look", fail)
    work.start()
    try:
        async with asyncio.timeout(10):
            await woken.wait()
    finally:
        await work.stop()
