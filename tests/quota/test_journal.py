"""The journal: many operations in one commit, each answered once, whatever the database and the callers do."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from books import Books, open_books
from faulty_store import Fault

from factories import make_principal, make_terms, tenant_quota, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import InvalidRequest, LedgerUnavailable, NotFound, QuotaHeld, TollkeeperError
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.models import Basis
from tollkeeper.quota.operations import Administer, Expire, Held, Release, Renew, Reserve, SetLimit, Settle
from tollkeeper.quota.store import Needs, Page
from tollkeeper.telemetry.logging import correlation_id

LEASE_MS = 60_000


@pytest.fixture
async def books(sqlite_url: str) -> AsyncIterator[Books]:
    async with open_books(sqlite_url, limit=100_000) as made:
        yield made


@pytest.fixture
async def journal(books: Books, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    """A second journal on the same store, with short pauses."""
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "POISON_PAUSE_S", 0.05)
    monkeypatch.setattr(journal_module, "WATCH_S", 0.005)
    made = Journal(books.store, queue_limit=500)
    made.start()
    yield made
    books.store.down = False
    books.store.before.set()
    await made.drain(5)
    await made.stop()


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


def reserve(books: Books, charge_id: str, size: int = 100) -> Reserve:
    return Reserve(charge_id, books.caller, make_terms(10, size - 10), LEASE_MS)


def settle(charge_id: str, tokens: int = 50) -> Settle:
    return Settle(charge_id, Usage(10, tokens - 10), Basis.PROVIDER)


async def begun(books: Books, journal: Journal) -> "asyncio.Future[object]":
    """A batch that stands before its transaction, so that what comes now waits in the queue together."""
    books.store.before.clear()
    books.store.begun.clear()
    first = journal.submit(reserve(books, "first"))
    await books.store.begun.wait()
    return first


async def test_a_lone_call_pays_two_commits(books: Books, journal: Journal) -> None:
    await journal.submit(reserve(books, "a"))
    await journal.submit(settle("a"))
    assert books.store.runs == 2


async def test_two_hundred_reserves_at_once_share_a_few_commits(books: Books, journal: Journal) -> None:
    answers = await asyncio.gather(*(journal.submit(reserve(books, f"c{number}")) for number in range(200)))
    assert [answer[:2] for answer in answers] == [(f"c{number}", 90) for number in range(200)]
    assert books.store.runs <= 3
    assert len(await books.charges()) == 200


async def test_what_arrives_during_a_commit_shares_the_next_one(books: Books, journal: Journal) -> None:
    first = await begun(books, journal)
    others = [journal.submit(reserve(books, f"c{number}")) for number in range(100)]
    books.store.before.set()
    await asyncio.gather(first, *others)
    assert books.store.runs == 2


async def test_a_batch_has_a_limit(books: Books, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MOST_IN_A_BATCH", 10)
    first = await begun(books, journal)
    others = [journal.submit(reserve(books, f"c{number}")) for number in range(25)]
    books.store.before.set()
    await asyncio.gather(first, *others)
    assert books.store.runs == 4


async def test_no_caller_is_answered_before_the_commit(books: Books, journal: Journal) -> None:
    books.store.after.clear()
    waiting = journal.submit(reserve(books, "a"))
    await books.store.begun.wait()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    books.store.after.set()
    assert (await waiting)[:2] == ("a", 90)


async def test_within_a_batch_what_frees_room_comes_before_what_takes_it(books: Books, journal: Journal) -> None:
    await journal.submit(reserve(books, "large", 99_900))
    await begun(books, journal)
    held = journal.submit(reserve(books, "next", 5_000))
    settled = journal.submit(settle("large", 20))
    books.store.before.set()
    assert (await held).charge_id == "next"
    assert (await settled).cost_tokens == 20


async def test_within_a_batch_a_renewal_comes_before_an_expiry(books: Books, journal: Journal) -> None:
    await journal.submit(reserve(books, "alive"))
    books.clock.step(61)
    await begun(books, journal)
    expired = journal.submit(Expire("alive"))
    renewed = journal.submit(Renew({"alive": (10, 0)}, LEASE_MS))
    books.store.before.set()
    assert await renewed == set()
    assert await expired is False


async def test_withdrawn_while_it_waits_nothing_is_reserved(books: Books, journal: Journal) -> None:
    await begun(books, journal)
    journal.submit(reserve(books, "gone")).cancel()
    books.store.before.set()
    await journal.drain(5)
    assert (await books.charges()).keys() == {"first"}


async def test_withdrawn_while_it_is_committed_it_is_released(books: Books, journal: Journal) -> None:
    books.store.after.clear()
    waiting = journal.submit(reserve(books, "gone"))
    await books.store.begun.wait()
    waiting.cancel()
    books.store.after.set()
    await journal.drain(5)
    charge = await books.only_charge()
    assert (charge.state, charge.closed_by, charge.cost_tokens) == ("released", "release", 0)


async def test_withdrawn_while_it_is_refused_nothing_is_left(books: Books, journal: Journal) -> None:
    books.store.after.clear()
    waiting = journal.submit(reserve(books, "gone", 200_000))
    await books.store.begun.wait()
    waiting.cancel()
    books.store.after.set()
    await journal.drain(5)
    assert await books.charges() == {}


async def test_a_settle_whose_caller_is_gone_lands_all_the_same(books: Books, journal: Journal) -> None:
    await journal.submit(reserve(books, "a"))
    books.store.down = True
    journal.submit(settle("a")).cancel()
    await asyncio.sleep(0.02)
    books.store.down = False
    await journal.drain(5)
    assert (await books.only_charge()).cost_tokens == 50


async def test_a_full_queue_refuses_reserves_and_takes_what_must_land(books: Books, journal: Journal) -> None:
    await journal.submit(reserve(books, "a"))
    await begun(books, journal)
    waiting = [journal.submit(reserve(books, f"c{number}")) for number in range(500)]
    with pytest.raises(LedgerUnavailable):
        journal.submit(reserve(books, "one too many"))
    settled = journal.submit(settle("a"))
    books.store.before.set()
    assert (await settled).cost_tokens == 50
    await asyncio.gather(*waiting)


async def test_the_culprit_of_a_failing_batch_is_refused_and_the_rest_lands(books: Books, journal: Journal) -> None:
    culprit = await make_principal(books.database, books.caller.tenant_id)
    books.store.poison = {str(culprit.user_id)}
    await begun(books, journal)
    rest = [journal.submit(reserve(books, f"c{number}")) for number in range(20)]
    bad = journal.submit(Reserve("bad", culprit, make_terms(), LEASE_MS))
    more = [journal.submit(reserve(books, f"d{number}")) for number in range(20)]
    books.store.before.set()
    assert len(await asyncio.gather(*rest, *more)) == 40
    with pytest.raises(LedgerUnavailable):
        await bad
    await journal.drain(5)
    assert len(await books.charges()) == 41
    assert books.store.runs <= 20


async def test_a_poisoned_settle_waits_apart_until_it_can_land(books: Books, journal: Journal) -> None:
    await asyncio.gather(journal.submit(reserve(books, "bad")), journal.submit(reserve(books, "good")))
    books.store.poison = {"bad"}
    bad, good = journal.submit(settle("bad")), journal.submit(settle("good"))
    assert (await good).cost_tokens == 50
    assert not bad.done()
    assert not await journal.drain(0.1), "what waits apart is not forgotten"
    books.store.poison = set()
    assert (await bad).cost_tokens == 50
    assert await journal.drain(5)


async def test_a_reserve_that_fails_alone_leaves_no_hold(books: Books, journal: Journal) -> None:
    """Also when the failure came after a COMMIT whose answer was lost."""
    books.store.faults.append(Fault.ANSWER_LOST)
    books.store.before.clear()
    waiting = journal.submit(reserve(books, "a"))
    await books.store.begun.wait()
    books.store.committed = lambda: books.store.poison.add("a")
    books.store.before.set()
    with pytest.raises(LedgerUnavailable):
        await waiting
    books.store.poison.clear()
    books.store.committed = lambda: None
    await journal.drain(5)
    assert (await books.only_charge()).state == "released"


async def test_a_refused_change_of_quotas_leaves_nothing_and_hinders_nobody(books: Books, journal: Journal) -> None:
    await begun(books, journal)
    new, old = tenant_quota(books.caller), user_quota(books.caller)
    refused = journal.submit(Administer("adm1", (SetLimit(new, -1),), "test", "test"))
    taken = journal.submit(Administer("adm2", (SetLimit(old, 500),), "test", "test"))
    held = journal.submit(reserve(books, "a"))
    books.store.before.set()
    with pytest.raises(InvalidRequest):
        await refused
    assert (await taken)[0].limit == 500
    assert (await held)[:2] == ("a", 90)
    snapshot = await books.snapshot()
    assert [quota.user_id for quota in snapshot.quotas.values()] == [books.caller.user_id]


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
    monkeypatch.setattr(journal_module, "MOST_IN_A_BATCH", 1)
    run = books.store.run

    async def slowly(needs: Needs, decide: Callable[[Page], None]) -> None:
        await run(needs, decide)
        await asyncio.sleep(0.05)

    monkeypatch.setattr(books.store, "run", slowly)
    others = [journal.submit(reserve(books, f"c{number}")) for number in range(60)]
    with pytest.raises(LedgerUnavailable):
        await journal.submit(reserve(books, "late"), wait_s=2)
    assert told == []
    await asyncio.gather(*others)


async def test_a_process_that_stood_still_takes_the_database_for_gone_no_sooner(
    books: Books, journal: Journal, told: list[Told]
) -> None:
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
    must_land = journal.submit(Release("never there"))
    books.store.down = True
    books.store.before.set()
    async with asyncio.timeout(5):
        while len(told) < 2:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert told == [
        Told("ledger.unavailable", "nothing landed in time", ""),
        Told("ledger.unavailable", "out of order", ""),
    ]
    books.store.down = False
    await must_land
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
    assert await journal.submit(settle("a"), wait_s=0.02, landed=landed.set) is None
    assert not landed.is_set()
    books.store.down = False
    await asyncio.wait_for(landed.wait(), 5)
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


async def test_a_refusal_is_an_answer_like_another(books: Books, journal: Journal) -> None:
    answers = await asyncio.gather(
        journal.submit(reserve(books, "a", 60_000)),
        journal.submit(reserve(books, "b", 60_000)),
        journal.submit(settle("never there")),
        journal.submit(Release("never there")),
        return_exceptions=True,
    )
    kinds = [type(answer) for answer in answers]
    assert kinds == [Held, QuotaHeld, NotFound, type(None)]
    assert issubclass(QuotaHeld, TollkeeperError)
