"""What must not be broken off is completed, whenever its caller is cancelled."""

import asyncio
import logging

import pytest
from sqlmodel import select

from tollkeeper.database.completion import to_completion
from tollkeeper.database.engine import Database
from tollkeeper.identity.models import Tenant


async def test_a_cancelled_caller_returns_after_the_end_of_the_work() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(0.05)
        ended.set()

    caller = asyncio.create_task(to_completion(work()))
    await begun.wait()
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def test_the_result_and_the_error_are_those_of_the_work() -> None:
    async def fail() -> None:
        raise OSError

    assert await to_completion(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(OSError):
        await to_completion(fail())


async def test_a_transaction_can_be_cancelled_at_each_of_its_steps(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged as an error, and the next transaction is served: no lock is left behind."""
    database = Database(database_url)

    async def transaction(name: str) -> None:
        async with database.session() as session:
            session.add(Tenant(name=name))
            await session.flush()
            await session.exec(select(Tenant).where(Tenant.name == name))

    await transaction("first")  # from now on, the pool has a connection
    with caplog.at_level(logging.ERROR):
        for steps in range(60):
            task = asyncio.create_task(transaction(f"cancelled-{steps}"))
            for _ in range(steps):
                await asyncio.sleep(0.0002)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await transaction(f"next-{steps}")
    await database.close()
    assert [record.message for record in caplog.records] == []
