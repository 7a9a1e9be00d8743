"""Idempotency keys with lost commits, cancelled callers, further attempts and other processes; and their deletion."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from faulty_store import Fault
from keyed_calls import DAY_S, KEYED_REQUEST, LEASE_MS, key_row, keyed_call, make_reservation, refusal, render_cost
from ledger_environment import LEASE_S, LedgerEnvironment, batch, open_ledger_environment

from support.factories import charge_id, make_principal, make_store, make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.database.engine import Database
from tollkeeper.errors import (
    IdempotencyError,
    IdempotencyInFlight,
    LedgerUnavailable,
    PreviousAttemptInterrupted,
    QuotaExceeded,
    TollkeeperError,
)
from tollkeeper.principal import Principal
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota import ledger as ledger_module
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, KeyName
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Hold, Replayed, Reserve, Settle, StoreResponse
from tollkeeper.quota.stores.base import Store

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
async def env(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LedgerEnvironment]:
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    async with open_ledger_environment(database_url) as made:
        yield made


@pytest.mark.parametrize("fault", list(Fault))
async def test_failed_commits_leave_one_call_and_one_response(env: LedgerEnvironment, fault: Fault) -> None:
    async with make_reservation(env) as made:
        env.store.faults.append(Fault.REFUSED)
        assert made.replayed is None
        made.set_usage(Usage(7, 30))
        made.store_response(render_cost)
        env.store.faults.append(fault)
    env.store.faults.append(fault)
    again = await keyed_call(env)
    assert again.replayed is not None
    assert again.replayed.response.body == b'{"cost":37}'
    assert len(await env.charges()) == 2
    assert (await env.window()).settled == 37


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_call_claims_its_key_despite_a_failed_commit(env: LedgerEnvironment, fault: Fault) -> None:
    env.store.faults.append(fault)
    async with make_reservation(env) as made:
        assert (await key_row(env)).charge_id == made.charge_id
        made.set_usage(Usage(1, 1))


async def test_a_replay_that_is_repeated_after_its_key_expired_is_refused(env: LedgerEnvironment) -> None:
    """Its answer was lost for so long that the key stands for nothing any more."""
    await keyed_call(env)
    operation = Reserve(charge_id("again"), env.caller, make_terms(), LEASE_MS, keyed_request=KEYED_REQUEST)
    assert isinstance((await batch(env.store, operation))[0], Replayed)
    env.clock.step(DAY_S)
    [answer] = await batch(env.store, operation, again=True)
    assert isinstance(answer, LedgerUnavailable)


async def test_a_call_cancelled_while_its_reserve_commits_frees_its_key(env: LedgerEnvironment) -> None:
    env.store.after_commit.clear()
    entering = asyncio.create_task(make_reservation(env).__aenter__())
    await env.store.committed.wait()
    entering.cancel()
    env.store.after_commit.set()
    await asyncio.gather(entering, return_exceptions=True)
    await env.idle()
    assert (await env.only_charge()).state == "released"
    assert (await keyed_call(env)).replayed is None


async def test_a_replay_cancelled_while_it_commits_leaves_nothing_open(env: LedgerEnvironment) -> None:
    await keyed_call(env)
    env.store.committed.clear()
    env.store.after_commit.clear()
    entering = asyncio.create_task(make_reservation(env).__aenter__())
    await env.store.committed.wait()
    entering.cancel()
    env.store.after_commit.set()
    await asyncio.gather(entering, return_exceptions=True)
    await env.idle()
    assert sorted(charge.basis or "" for charge in (await env.charges()).values()) == ["cache", "provider"]
    assert (await keyed_call(env)).replayed is not None


async def test_a_further_attempt_claims_the_key(env: LedgerEnvironment) -> None:
    async with make_reservation(env) as made:
        await made.extend(make_terms(), "provider_error")
        assert (await key_row(env)).charge_id == made.charge_id
        assert await refusal(env) is IdempotencyInFlight
        made.set_usage(Usage(7, 30))
        made.store_response(render_cost)
    assert (await keyed_call(env)).replayed is not None


async def test_the_response_of_the_failed_attempt_is_not_stored_by_the_next(env: LedgerEnvironment) -> None:
    async with make_reservation(env) as made:
        made.store_response(render_cost)
        await made.extend(make_terms(), "provider_error")
        made.set_usage(Usage(7, 30))
    assert await refusal(env) is PreviousAttemptInterrupted


async def test_a_refused_attempt_frees_the_key(env: LedgerEnvironment) -> None:
    async with make_reservation(env) as made:
        with pytest.raises(QuotaExceeded):
            await made.extend(make_terms(10, 5_000), "provider_error")
        assert (await keyed_call(env)).replayed is None
        with pytest.raises(IdempotencyInFlight):
            await made.extend(make_terms(), "quota_exceeded")
    assert (await env.window()).settled == 37


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_further_attempt_claims_the_key_despite_a_failed_commit(env: LedgerEnvironment, fault: Fault) -> None:
    async with make_reservation(env) as made:
        env.store.faults.append(fault)
        await made.extend(make_terms(), "provider_error")
        assert (await key_row(env)).charge_id == made.charge_id
        made.set_usage(Usage(7, 30))
        made.store_response(render_cost)
    assert (await keyed_call(env)).replayed is not None


async def test_of_two_processes_with_the_same_key_one_makes_the_call(env: LedgerEnvironment, database_url: str) -> None:
    """Also when neither has seen the key before: each round is a new one."""
    others = [Ledger(make_store(database_url, env.clock), lease_seconds=LEASE_S) for _ in range(2)]
    for other in others:
        other.start()
        async with make_reservation(env, None, other) as warm:
            warm.set_usage(Usage(0, 0))
    charges = len(await env.charges())
    for number in range(10):
        keyed_request = KeyedRequest(f"key {number}", "a" * 64)
        entering = [make_reservation(env, keyed_request, other).__aenter__() for other in others * 3]
        results = await asyncio.gather(*entering, return_exceptions=True)
        [made] = [answer for answer in results if isinstance(answer, Reservation)]
        refusals = [type(answer) for answer in results if answer is not made]
        assert refusals == [IdempotencyInFlight] * 5
        made.set_usage(Usage(1, 1))
        made.store_response(render_cost)
        leaving = made.__aexit__(None, None, None)
        entering = [make_reservation(env, keyed_request, other).__aenter__() for other in others]
        _, *replays = await asyncio.gather(leaving, *entering, return_exceptions=True)
        for replay in replays:
            assert isinstance(replay, IdempotencyInFlight) or (isinstance(replay, Reservation) and replay.replayed)
    for other in others:
        await other.stop()
    paid = [charge for charge in (await env.charges()).values() if charge.cost_tokens]
    assert len(paid) == 10
    assert charges == 2


async def test_processes_that_write_the_same_keys_never_deadlock(database: Database, database_url: str) -> None:
    """Whatever the order in which a batch names them, and whether it keeps answers or takes keys over."""
    first = await make_principal(database)
    users = [first] + [await make_principal(database, first.tenant_id) for _ in range(3)]
    async with open_ledger_environment(database_url) as env:
        for user in users:
            await set_limit(env.ledger, user_quota(user), 10**9)
        numbers = itertools.count()
        stores = [make_store(database_url, env.clock) for _ in range(2)]
        one, two = stores
        await asyncio.gather(busy(env, one, numbers, users), busy(env, two, numbers, users[::-1]))
        for store in stores:
            await store.close()
        assert len((await env.snapshot()).keys) == len(users) * 2


async def busy(env: LedgerEnvironment, store: Store, numbers: "itertools.count[int]", order: list[Principal]) -> None:
    """Rounds of calls under two keys a user, taken over when they are a day old."""
    mine: list[tuple[str, KeyName]] = []
    for turn in range(40):
        settles = [
            Settle(one, name.tenant_id, Usage(1, 1), Basis.PROVIDER, store_response=StoreResponse(name, render_cost))
            for one, name in (mine if turn % 2 else mine[::-1])
        ]
        attempts = [(user, KeyedRequest(key, "a" * 64)) for user in order for key in ("x", "y")]
        reserves = [
            Reserve(charge_id(f"c{next(numbers)}"), user, make_terms(1, 1), LEASE_MS, keyed_request=one)
            for user, one in attempts
        ]
        results = await batch(store, *settles, *reserves)
        assert not [
            one for one in results if isinstance(one, TollkeeperError) and not isinstance(one, IdempotencyError)
        ]
        admitted = {one.charge_id for one in results if isinstance(one, Hold)}
        mine = [
            (one.charge_id, one.keyed_request.name(one.caller))
            for one in reserves
            if one.charge_id in admitted and one.keyed_request is not None
        ]
        if turn % 5 == 0:
            env.clock.step(DAY_S / 2)


async def test_expired_keys_are_deleted_in_batches(env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "DELETION_BATCH", 3)
    monkeypatch.setattr(ledger_module, "DELETION_PAUSE_S", 0)
    for number in range(8):
        await keyed_call(env, keyed_request=KeyedRequest(f"old {number}", "a" * 64))
    env.clock.ms += 1
    await keyed_call(env)
    env.clock.ms += DAY_S * 1000 - 2
    assert await env.ledger.delete_old_keys() == 0
    env.clock.ms += 1
    assert await env.ledger.delete_old_keys() == 8
    assert (await key_row(env)).key == KEYED_REQUEST.key
    assert (await keyed_call(env)).replayed is not None
    assert await env.ledger.delete_old_keys() == 0
    assert (await keyed_call(env, keyed_request=KeyedRequest("old 1", "b" * 64))).replayed is None


async def test_deleting_keys_fails_with_ledger_unavailable_in_an_outage(env: LedgerEnvironment) -> None:
    env.store.down = True
    with pytest.raises(LedgerUnavailable):
        await env.ledger.delete_old_keys()
