"""The journal: many operations in one commit, each answered once, despite faults and cancelled callers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from faulty_store import Fault
from journal_operations import LEASE_MS, block_first_batch, cancel_in_commit, open_journal, reserve, settle
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.factories import charge_id, make_principal, make_terms, operation_id, tenant_quota, user_quota
from tollkeeper.errors import InvalidRequest, LedgerUnavailable, NotFound, QuotaHeld, TollkeeperError
from tollkeeper.quota import operation_queue
from tollkeeper.quota.journal import Journal
from tollkeeper.quota.rules.limit_changes import SetLimit
from tollkeeper.quota.rules.operations import Administer, Expire, Hold, Release, Renew, Reserve


@pytest.fixture
async def env(sqlite_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(sqlite_url, limit=100_000) as made:
        yield made


@pytest.fixture
async def journal(env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    async with open_journal(env, monkeypatch) as made:
        yield made


async def test_a_single_call_takes_two_commits(env: LedgerEnvironment, journal: Journal) -> None:
    await journal.submit(reserve(env, "a"))
    await journal.submit(settle(env, "a"))
    assert env.store.runs == 2


async def test_two_hundred_reserves_at_once_share_a_few_commits(env: LedgerEnvironment, journal: Journal) -> None:
    results = await asyncio.gather(*(journal.submit(reserve(env, f"c{number}")) for number in range(200)))
    assert [answer[:2] for answer in results] == [(charge_id(f"c{number}"), 90) for number in range(200)]
    assert env.store.runs <= 3
    assert len(await env.charges()) == 200


async def test_what_arrives_during_a_commit_shares_the_next_one(env: LedgerEnvironment, journal: Journal) -> None:
    first = await block_first_batch(env, journal)
    others = [journal.submit(reserve(env, f"c{number}")) for number in range(100)]
    env.store.before_batch.set()
    await asyncio.gather(first, *others)
    assert env.store.runs == 2


async def test_a_batch_has_a_limit(env: LedgerEnvironment, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_queue, "MAX_BATCH", 10)
    first = await block_first_batch(env, journal)
    others = [journal.submit(reserve(env, f"c{number}")) for number in range(25)]
    env.store.before_batch.set()
    await asyncio.gather(first, *others)
    assert env.store.runs == 4


async def test_no_caller_is_answered_before_the_commit(env: LedgerEnvironment, journal: Journal) -> None:
    env.store.after_commit.clear()
    waiting = journal.submit(reserve(env, "a"))
    await env.store.committed.wait()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    env.store.after_commit.set()
    assert (await waiting)[:2] == (charge_id("a"), 90)


async def test_a_settle_precedes_a_reserve_within_a_batch(env: LedgerEnvironment, journal: Journal) -> None:
    await journal.submit(reserve(env, "large", 99_900))
    await block_first_batch(env, journal)
    held = journal.submit(reserve(env, "next", 5_000))
    settled = journal.submit(settle(env, "large", 20))
    env.store.before_batch.set()
    assert (await held).charge_id == charge_id("next")
    assert (await settled).cost_tokens == 20


async def test_a_renewal_precedes_an_expiry_within_a_batch(env: LedgerEnvironment, journal: Journal) -> None:
    await journal.submit(reserve(env, "alive"))
    env.clock.step(61)
    await block_first_batch(env, journal)
    expired = journal.submit(Expire(charge_id("alive"), env.caller.tenant_id))
    renewed = journal.submit(Renew({charge_id("alive"): (10, 0)}, {charge_id("alive"): env.caller.tenant_id}, LEASE_MS))
    env.store.before_batch.set()
    assert await renewed == set()
    assert await expired is None


async def test_a_reserve_cancelled_in_the_queue_reserves_nothing(env: LedgerEnvironment, journal: Journal) -> None:
    await block_first_batch(env, journal)
    journal.submit(reserve(env, "gone")).cancel()
    env.store.before_batch.set()
    await journal.drain(5)
    assert (await env.charges()).keys() == {charge_id("first")}


async def test_a_reserve_cancelled_in_its_commit_is_released(env: LedgerEnvironment, journal: Journal) -> None:
    await cancel_in_commit(env, journal)
    charge = await env.only_charge()
    assert (charge.state, charge.closed_by, charge.cost_tokens) == ("released", "release", 0)


async def test_a_reserve_cancelled_while_it_is_refused_leaves_nothing(env: LedgerEnvironment, journal: Journal) -> None:
    await cancel_in_commit(env, journal, 200_000)
    assert await env.charges() == {}


async def test_a_settle_whose_caller_was_cancelled_still_commits(env: LedgerEnvironment, journal: Journal) -> None:
    await journal.submit(reserve(env, "a"))
    env.store.down = True
    journal.submit(settle(env, "a")).cancel()
    await asyncio.sleep(0.02)
    env.store.down = False
    await journal.drain(5)
    assert (await env.only_charge()).cost_tokens == 50


async def test_a_full_queue_refuses_reserves_and_accepts_settles(env: LedgerEnvironment, journal: Journal) -> None:
    await journal.submit(reserve(env, "a"))
    await block_first_batch(env, journal)
    waiting = [journal.submit(reserve(env, f"c{number}")) for number in range(500)]
    with pytest.raises(LedgerUnavailable):
        journal.submit(reserve(env, "one too many"))
    settled = journal.submit(settle(env, "a"))
    env.store.before_batch.set()
    assert (await settled).cost_tokens == 50
    await asyncio.gather(*waiting)


async def test_the_failing_operation_of_a_batch_is_refused_and_the_others_commit(
    env: LedgerEnvironment, journal: Journal
) -> None:
    culprit = await make_principal(env.database, env.caller.tenant_id)
    env.store.poison = {str(culprit.user_id)}
    await block_first_batch(env, journal)
    rest = [journal.submit(reserve(env, f"c{number}")) for number in range(20)]
    bad = journal.submit(Reserve(charge_id("bad"), culprit, make_terms(), LEASE_MS))
    more = [journal.submit(reserve(env, f"d{number}")) for number in range(20)]
    env.store.before_batch.set()
    assert len(await asyncio.gather(*rest, *more)) == 40
    with pytest.raises(LedgerUnavailable):
        await bad
    await journal.drain(5)
    assert len(await env.charges()) == 41
    assert env.store.runs <= 20


async def test_a_failing_settle_waits_separately_until_it_can_commit(env: LedgerEnvironment, journal: Journal) -> None:
    await asyncio.gather(journal.submit(reserve(env, "bad")), journal.submit(reserve(env, "good")))
    env.store.poison = {charge_id("bad")}
    bad, good = journal.submit(settle(env, "bad")), journal.submit(settle(env, "good"))
    assert (await good).cost_tokens == 50
    assert not bad.done()
    assert not await journal.drain(0.1), "what waits apart is not forgotten"
    env.store.poison = set()
    assert (await bad).cost_tokens == 50
    assert await journal.drain(5)


async def test_a_reserve_that_fails_alone_leaves_no_hold(env: LedgerEnvironment, journal: Journal) -> None:
    """Also when the failure came after a COMMIT whose answer was lost."""
    env.store.faults.append(Fault.ANSWER_LOST)
    env.store.before_batch.clear()
    waiting = journal.submit(reserve(env, "a"))
    await env.store.started.wait()
    env.store.on_commit = lambda: env.store.poison.add(charge_id("a"))
    env.store.before_batch.set()
    with pytest.raises(LedgerUnavailable):
        await waiting
    env.store.poison.clear()
    env.store.on_commit = lambda: None
    await journal.drain(5)
    assert (await env.only_charge()).state == "released"


async def test_a_refused_change_of_quotas_changes_nothing_and_affects_no_other_operation(
    env: LedgerEnvironment, journal: Journal
) -> None:
    await block_first_batch(env, journal)
    new, old = tenant_quota(env.caller), user_quota(env.caller)
    refused = journal.submit(Administer(operation_id("adm1"), (SetLimit(new, -1),), "test", "test"))
    taken = journal.submit(Administer(operation_id("adm2"), (SetLimit(old, 500),), "test", "test"))
    held = journal.submit(reserve(env, "a"))
    env.store.before_batch.set()
    with pytest.raises(InvalidRequest):
        await refused
    assert (await taken)[0].limit == 500
    assert (await held)[:2] == (charge_id("a"), 90)
    snapshot = await env.snapshot()
    assert [quota.user_id for quota in snapshot.quotas.values()] == [env.caller.user_id]


async def test_refusals_are_returned_as_results(env: LedgerEnvironment, journal: Journal) -> None:
    results = await asyncio.gather(
        journal.submit(reserve(env, "a", 60_000)),
        journal.submit(reserve(env, "b", 60_000)),
        journal.submit(settle(env, "never there")),
        journal.submit(Release(charge_id("never there"), env.caller.tenant_id)),
        return_exceptions=True,
    )
    kinds = [type(answer) for answer in results]
    assert kinds == [Hold, QuotaHeld, NotFound, type(None)]
    assert issubclass(QuotaHeld, TollkeeperError)
