"""A call that is answered without a provider: a row of its own, at no cost, which waits for no window."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from faulty_store import Fault
from ledger_environment import LedgerEnvironment, batch, open_ledger_environment

from support.deadlines import TEST_DEADLINE_S
from support.factories import charge_id, make_principal, make_terms, set_limit, tenant_quota, user_quota
from tollkeeper.errors import QuotaExceeded, QuotaHeld, Unauthenticated
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import BookFree, ClosedCharge, Hold, Reserve
from tollkeeper.quota.rules.windows import Period


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(database_url, limit=1_000) as made:
        yield made


def free(env: LedgerEnvironment, name: str = "free") -> BookFree:
    return BookFree(charge_id(name), env.caller, make_terms(), lease_ms=0)


async def test_it_costs_and_holds_nothing_and_has_no_entries(env: LedgerEnvironment) -> None:
    closed = await env.ledger.book_free(env.caller, make_terms())
    assert (closed.basis, closed.cost_tokens, closed.usage.total_tokens) == ("cache", 0, 0)
    [balance] = closed.balances
    assert (balance.quota, balance.limit, balance.used, balance.reserved) == ("user-day", 1_000, 0, 0)
    snapshot = await env.snapshot()
    assert snapshot.charges[closed.charge_id].state == "settled"
    sources = {entry.source_id for entries in snapshot.entries.values() for entry in entries}
    assert closed.charge_id not in sources


async def test_its_balances_are_those_of_all_quotas_and_no_window_begins_by_it(env: LedgerEnvironment) -> None:
    [hold] = await batch(env.store, Reserve(charge_id("a"), env.caller, make_terms(), 60_000))
    assert isinstance(hold, Hold)
    await set_limit(env.ledger, tenant_quota(env.caller), 5_000)
    env.clock.ms += 24 * 3_600_000
    before = (await env.snapshot()).windows
    closed = await env.ledger.book_free(env.caller, make_terms())
    assert (await env.snapshot()).windows == before
    shown = {one.quota: (one.limit, one.used, one.reserved) for one in closed.balances}
    assert shown == {"user-day": (1_000, 0, 0), "tenant-month": (5_000, 0, 0)}
    assert hold.balances[0].reserved > 0


async def test_repeated_after_a_lost_commit_it_is_booked_once(env: LedgerEnvironment) -> None:
    operation = free(env)
    [first] = await batch(env.store, operation)
    [again] = await batch(env.store, operation, again=True)
    assert isinstance(first, ClosedCharge)
    assert first == again
    env.store.faults.append(Fault.ANSWER_LOST)
    closed = await env.ledger.book_free(env.caller, make_terms())
    assert (await env.charges()).keys() == {operation.charge_id, closed.charge_id}


async def test_it_is_refused_to_whom_a_call_is_refused_but_for_a_lack_of_room(env: LedgerEnvironment) -> None:
    await set_limit(env.ledger, user_quota(env.caller, Period.DAY), 0)
    assert (await env.ledger.book_free(env.caller, make_terms())).cost_tokens == 0
    without_quota = await make_principal(env.database, tenant_id=env.caller.tenant_id)
    with pytest.raises(QuotaExceeded):
        await env.ledger.book_free(without_quota, make_terms())
    outdated = replace(env.caller, token_version=env.caller.token_version + 1)
    with pytest.raises(Unauthenticated):
        await env.ledger.book_free(outdated, make_terms())


async def test_it_counts_where_requests_are_counted_and_is_refused_without_room(env: LedgerEnvironment) -> None:
    await set_limit(env.ledger, user_quota(env.caller, Period.DAY, Unit.REQUESTS), 2)
    await set_limit(env.ledger, tenant_quota(env.caller, Period.TOTAL, Unit.CONCURRENCY), 0)
    closed = await env.ledger.book_free(env.caller, make_terms())
    shown = {one.quota: (one.used, one.reserved) for one in closed.balances}
    assert shown == {"user-day": (0, 0), "user-day-requests": (1, 0), "tenant-total-concurrency": (0, 0)}
    assert (closed.basis, closed.cost_tokens) == ("cache", 0)
    await set_limit(env.ledger, tenant_quota(env.caller, Period.TOTAL, Unit.CONCURRENCY), 5)
    await batch(env.store, Reserve(charge_id("a"), env.caller, make_terms(), 60_000))
    with pytest.raises(QuotaHeld):
        await env.ledger.book_free(env.caller, make_terms())
    await set_limit(env.ledger, user_quota(env.caller, Period.DAY, Unit.REQUESTS), 1)
    with pytest.raises(QuotaExceeded):
        await env.ledger.book_free(env.caller, make_terms())
    report = await verify(env.database, now_ms=env.clock.ms)
    assert report.problems == []


async def test_in_one_batch_with_a_reserve_of_the_same_caller_it_sees_the_hold(env: LedgerEnvironment) -> None:
    hold, closed = await batch(env.store, Reserve(charge_id("a"), env.caller, make_terms(), 60_000), free(env))
    assert isinstance(hold, Hold)
    assert isinstance(closed, ClosedCharge)
    assert closed.balances == hold.balances


async def test_where_requests_are_counted_it_waits_alone_for_a_window_that_is_locked(postgres_url: str) -> None:
    async with open_ledger_environment(postgres_url, limit=1_000) as env:
        await set_limit(env.ledger, user_quota(env.caller, Period.DAY, Unit.REQUESTS), 5)
        other_caller = await make_principal(env.database)
        await set_limit(env.ledger, user_quota(other_caller, Period.DAY), 1_000)
        other = await asyncpg.connect(postgres_url)
        try:
            transaction = other.transaction()
            await transaction.start()
            await other.execute(f"SELECT 1 FROM windows WHERE tenant_id = {env.caller.tenant_id} FOR UPDATE")
            waiting = asyncio.create_task(env.ledger.book_free(env.caller, make_terms()))
            async with asyncio.timeout(TEST_DEADLINE_S):
                await env.ledger.book_free(other_caller, make_terms())
            assert not waiting.done()
            await transaction.rollback()
            closed = await waiting
        finally:
            await other.close()
        assert {one.quota: one.used for one in closed.balances} == {"user-day": 0, "user-day-requests": 1}


async def test_it_does_not_wait_for_a_window_that_another_session_keeps_locked(postgres_url: str) -> None:
    async with open_ledger_environment(postgres_url, limit=1_000) as env:
        await batch(env.store, Reserve(charge_id("a"), env.caller, make_terms(), 60_000))
        other = await asyncpg.connect(postgres_url)
        try:
            async with other.transaction(), asyncio.timeout(TEST_DEADLINE_S):
                await other.execute("SELECT 1 FROM windows FOR UPDATE")
                [closed] = await batch(env.store, free(env))
        finally:
            await other.close()
        assert isinstance(closed, ClosedCharge)
        assert closed.balances[0].reserved > 0
