"""The journal: many operations in one commit, each answered once, whatever the database and the callers do."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from books import Books, open_books
from faulty_store import Fault
from journalling import LEASE_MS, begun, open_journal, reserve, settle

from support.factories import make_principal, make_terms, tenant_quota, user_quota
from tollkeeper.errors import InvalidRequest, LedgerUnavailable, NotFound, QuotaHeld, TollkeeperError
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.rules.operations import Administer, Expire, Hold, Release, Renew, Reserve, SetLimit


@pytest.fixture
async def books(sqlite_url: str) -> AsyncIterator[Books]:
    async with open_books(sqlite_url, limit=100_000) as made:
        yield made


@pytest.fixture
async def journal(books: Books, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    async with open_journal(books, monkeypatch) as made:
        yield made


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
    monkeypatch.setattr(journal_module, "MAX_BATCH", 10)
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


async def test_a_refusal_is_an_answer_like_another(books: Books, journal: Journal) -> None:
    answers = await asyncio.gather(
        journal.submit(reserve(books, "a", 60_000)),
        journal.submit(reserve(books, "b", 60_000)),
        journal.submit(settle("never there")),
        journal.submit(Release("never there")),
        return_exceptions=True,
    )
    kinds = [type(answer) for answer in answers]
    assert kinds == [Hold, QuotaHeld, NotFound, type(None)]
    assert issubclass(QuotaHeld, TollkeeperError)
