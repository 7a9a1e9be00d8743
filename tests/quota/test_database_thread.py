"""The thread of SQLite's connection: jobs run in order, in one thread, and their results reach who waits for them."""

import asyncio
import threading

import pytest

from tollkeeper.quota.stores.sqlite.database_thread import DatabaseThread


@pytest.fixture
def thread() -> DatabaseThread:
    return DatabaseThread("under-test")


async def test_jobs_run_in_order_in_one_thread_of_their_own(thread: DatabaseThread) -> None:
    ran: list[tuple[int, int]] = []

    def job(number: int) -> int:
        ran.append((number, threading.get_ident()))
        return number * 2

    assert await asyncio.gather(*[thread.run(job, number) for number in range(20)]) == list(range(0, 40, 2))
    assert [number for number, _ in ran] == list(range(20))
    [ident] = {ident for _, ident in ran}
    assert ident != threading.get_ident()
    thread.close()


async def test_what_a_job_raises_is_raised_where_it_is_awaited(thread: DatabaseThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    assert await thread.run(lambda: 1) == 1
    thread.close()


async def test_a_job_runs_though_its_caller_was_cancelled(thread: DatabaseThread) -> None:
    go, ran = threading.Event(), threading.Event()

    def job() -> None:
        go.wait()
        ran.set()

    waiting = thread.run(job)
    waiting.cancel()
    go.set()
    await thread.run(lambda: None)
    assert ran.is_set()
    assert waiting.cancelled()
    thread.close()


async def test_close_waits_for_the_queued_jobs_and_a_later_job_starts_a_new_thread(thread: DatabaseThread) -> None:
    ran: list[int] = []
    for number in range(3):
        thread.run(ran.append, number).cancel()
    thread.close()
    assert ran == [0, 1, 2]
    assert await thread.run(lambda: 7) == 7
    thread.close()
    thread.close()


def test_a_job_outlives_the_event_loop_that_queued_it(thread: DatabaseThread) -> None:
    go, ran = threading.Event(), threading.Event()

    def job() -> None:
        go.wait()
        ran.set()

    async def queue() -> None:
        thread.run(job).cancel()

    asyncio.run(queue())
    go.set()
    assert ran.wait(10)
    thread.close()
