"""The journal while the database is away, slow, or loses a commit: who is answered, and what lands."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from books import Books, open_books
from faulty_store import Fault
from journalling import begun, open_journal, reserve, settle

from support.deadlines import TEST_DEADLINE_S
from support.factories import user_quota
from tollkeeper.errors import LedgerUnavailable
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.rules.operations import Administer, Release, SetLimit
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.telemetry.logging import correlation_id


@pytest.fixture
async def books(sqlite_url: str) -> AsyncIterator[Books]:
    async with open_books(sqlite_url, limit=100_000) as made:
        yield made


@pytest.fixture
async def journal(books: Books, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    async with open_journal(books, monkeypatch) as made:
        yield made


class Told(NamedTuple):
    """A line of the log: what, why, and of which call."""

    event: str
    reason: str
    correlation_id: str


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """What the journal logs of outages."""
    lines: list[Told] = []

    def tell(event: str, reason: str = "", **_: object) -> None:
        lines.append(Told(event, reason, correlation_id.get()))

    monkeypatch.setattr(journal_module, "log", SimpleNamespace(warning=tell, info=tell, error=lambda *_, **__: None))
    return lines


async def test_an_outage_only_delays_what_must_land(books: Books, journal: Journal) -> None:
    await asyncio.gather(journal.submit(reserve(books, "a")), journal.submit(reserve(books, "b")))
    books.store.down = True
    settled, released = journal.submit(settle("a")), journal.submit(Release("b"))
    while not journal.failing:
        await asyncio.sleep(0.001)
    assert not await journal.drain(0.03)
    books.store.down = False
    assert (await settled).cost_tokens == 50
    assert (await released).cost_tokens == 0
    assert not journal.failing


async def test_what_waits_for_too_long_is_answered_and_withdrawn(books: Books, journal: Journal) -> None:
    books.store.down = True
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(books, "late"), wait_s=0.02)
    books.store.down = False
    await journal.drain(5)
    assert await books.charges() == {}


async def test_what_waits_for_too_long_in_its_commit_is_answered_and_released(books: Books, journal: Journal) -> None:
    books.store.after.clear()
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(books, "late"), wait_s=0.02)
    books.store.after.set()
    await journal.drain(5)
    assert (await books.only_charge()).state == "released"


async def test_who_waits_in_vain_while_nothing_lands_makes_it_an_outage(books: Books, journal: Journal) -> None:
    """The database has not said so yet: it may have a longer patience than callers have."""
    books.store.before.clear()
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(books, "late"), wait_s=0.02)
    assert journal.failing
    books.store.before.set()
    assert (await journal.submit(reserve(books, "next")))[:2] == ("next", 90)
    assert not journal.failing


async def test_who_waits_in_vain_in_a_queue_that_moves_does_not(
    books: Books, journal: Journal, told: list[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_BATCH", 1)
    run = books.store.run

    async def slowly(read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        await run(read_set, decide)
        await asyncio.sleep(0.05)

    monkeypatch.setattr(books.store, "run", slowly)
    others = [journal.submit(reserve(books, f"c{number}")) for number in range(60)]
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(books, "late"), wait_s=2)
    assert told == []
    await asyncio.gather(*others)


async def test_a_process_that_stood_still_takes_the_database_for_gone_no_sooner(
    books: Books, journal: Journal, told: list[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "STALL_CHECKS", 10)
    first = await begun(books, journal)
    late = journal.submit(reserve(books, "late"), wait_s=0.1)
    time.sleep(0.3)
    books.store.before.set()
    with pytest.raises(LedgerUnavailable):
        await late
    await first
    assert (told, journal.failing) == ([], False)


async def test_an_outage_is_told_once_as_it_is_noticed_and_once_as_the_database_says_in_nobodys_name(
    books: Books, journal: Journal, told: list[Told]
) -> None:
    books.store.before.clear()
    correlation_id.set("somebody")
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(books, "late"), wait_s=0.02)
    must_commit = journal.submit(Release("never there"))
    books.store.down = True
    books.store.before.set()
    async with asyncio.timeout(TEST_DEADLINE_S):
        while len(told) < 2:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert told == [
        Told("ledger.unavailable", "nothing was committed in time", ""),
        Told("ledger.unavailable", "out of order", ""),
    ]
    books.store.down = False
    await must_commit
    assert told[2:] == [Told("ledger.recovered", "", "")]


async def test_a_poisoned_settle_is_late_for_its_caller_too(books: Books, journal: Journal) -> None:
    await journal.submit(reserve(books, "bad"))
    books.store.poison = {"bad"}
    assert await journal.submit(settle("bad"), wait_s=0.2) is None
    books.store.poison = set()
    assert await journal.drain(5)
    assert (await books.only_charge()).cost_tokens == 50


async def test_a_settle_that_is_late_says_so_and_lands(books: Books, journal: Journal) -> None:
    await journal.submit(reserve(books, "a"))
    books.store.down = True
    landed = asyncio.Event()
    assert await journal.submit(settle("a"), wait_s=0.02, on_commit=landed.set) is None
    assert not landed.is_set()
    books.store.down = False
    await asyncio.wait_for(landed.wait(), TEST_DEADLINE_S)
    assert (await books.only_charge()).cost_tokens == 50


@pytest.mark.parametrize("fault", list(Fault))
async def test_whatever_became_of_the_commit_each_operation_happens_once(
    books: Books, journal: Journal, fault: Fault
) -> None:
    books.store.faults.append(fault)
    assert (await journal.submit(reserve(books, "a")))[:2] == ("a", 90)
    books.store.faults.append(fault)
    assert (await journal.submit(settle("a"))).cost_tokens == 50
    books.store.faults.append(fault)
    act = Administer("adm1", (SetLimit(user_quota(books.caller), 500),), "test", "test")
    assert (await journal.submit(act))[0].limit == 500
    window = await books.window()
    assert (window.granted, window.settled, window.pending) == (500, 50, 0)


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.NEVER_COMMITTED])
async def test_a_caller_who_left_before_a_lost_commit_is_run_again_holds_nothing(
    books: Books, journal: Journal, fault: Fault
) -> None:
    books.store.faults.extend([fault, Fault.REFUSED])
    books.store.before.clear()
    waiting = journal.submit(reserve(books, "gone"))
    await books.store.begun.wait()
    waiting.cancel()
    books.store.before.set()
    await journal.drain(5)
    assert [charge.state for charge in (await books.charges()).values()] == (
        ["released"] if fault is Fault.ANSWER_LOST else []
    )
