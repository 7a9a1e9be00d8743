"""Idempotency keys under lost commits, callers who leave, further attempts and other processes; and their end."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from books import LEASE_S, Books, batch, open_books
from faulty_store import Fault
from keyed_calls import DAY_S, LEASE_MS, ONE, bill, call, key_row, refusal, reservation

from support.factories import make_principal, make_store, make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.db import Database
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
async def books(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Books]:
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    async with open_books(database_url) as made:
        yield made


@pytest.mark.parametrize("fault", list(Fault))
async def test_whatever_became_of_the_commits_there_is_one_call_and_one_answer(books: Books, fault: Fault) -> None:
    async with reservation(books) as made:
        books.store.faults.append(Fault.REFUSED)
        assert made.replayed is None
        made.set_usage(Usage(7, 30))
        made.store_response(bill)
        books.store.faults.append(fault)
    books.store.faults.append(fault)
    again = await call(books)
    assert again.replayed is not None
    assert again.replayed.response.body == b'{"cost":37}'
    assert len(await books.charges()) == 2
    assert (await books.window()).settled == 37


@pytest.mark.parametrize("fault", list(Fault))
async def test_whatever_became_of_its_reserve_the_key_is_its_own(books: Books, fault: Fault) -> None:
    books.store.faults.append(fault)
    async with reservation(books) as made:
        assert (await key_row(books)).charge_id == made.charge_id
        made.set_usage(Usage(1, 1))


async def test_a_replay_that_was_committed_in_vain_is_refused(books: Books) -> None:
    """Its answer was lost for so long that the key stands for nothing any more."""
    await call(books)
    operation = Reserve("again", books.caller, make_terms(), LEASE_MS, keyed_request=ONE)
    assert isinstance((await batch(books.store, operation))[0], Replayed)
    books.clock.step(DAY_S)
    [answer] = await batch(books.store, operation, again=True)
    assert isinstance(answer, LedgerUnavailable)


async def test_cancelled_while_its_reserve_commits_it_frees_its_key(books: Books) -> None:
    books.store.after.clear()
    entering = asyncio.create_task(reservation(books).__aenter__())
    await books.store.begun.wait()
    entering.cancel()
    books.store.after.set()
    await asyncio.gather(entering, return_exceptions=True)
    await books.idle()
    assert (await books.only_charge()).state == "released"
    assert (await call(books)).replayed is None


async def test_cancelled_while_its_replay_commits_nothing_is_left_to_do(books: Books) -> None:
    await call(books)
    books.store.begun.clear()
    books.store.after.clear()
    entering = asyncio.create_task(reservation(books).__aenter__())
    await books.store.begun.wait()
    entering.cancel()
    books.store.after.set()
    await asyncio.gather(entering, return_exceptions=True)
    await books.idle()
    assert sorted(charge.basis or "" for charge in (await books.charges()).values()) == ["cache", "provider"]
    assert (await call(books)).replayed is not None


async def test_a_further_attempt_takes_the_key_with_it(books: Books) -> None:
    async with reservation(books) as made:
        await made.extend(make_terms(), "provider_error")
        assert (await key_row(books)).charge_id == made.charge_id
        assert await refusal(books) is IdempotencyInFlight
        made.set_usage(Usage(7, 30))
        made.store_response(bill)
    assert (await call(books)).replayed is not None


async def test_what_the_attempt_that_failed_would_have_kept_is_not_the_next_ones(books: Books) -> None:
    async with reservation(books) as made:
        made.store_response(bill)
        await made.extend(make_terms(), "provider_error")
        made.set_usage(Usage(7, 30))
    assert await refusal(books) is PreviousAttemptInterrupted


async def test_a_refused_attempt_frees_the_key(books: Books) -> None:
    async with reservation(books) as made:
        with pytest.raises(QuotaExceeded):
            await made.extend(make_terms(10, 5_000), "provider_error")
        assert (await call(books)).replayed is None
        with pytest.raises(IdempotencyInFlight):
            await made.extend(make_terms(), "quota_exceeded")
    assert (await books.window()).settled == 37


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_further_attempt_has_the_key_whatever_became_of_the_commit(books: Books, fault: Fault) -> None:
    async with reservation(books) as made:
        books.store.faults.append(fault)
        await made.extend(make_terms(), "provider_error")
        assert (await key_row(books)).charge_id == made.charge_id
        made.set_usage(Usage(7, 30))
        made.store_response(bill)
    assert (await call(books)).replayed is not None


async def test_of_two_processes_with_the_same_key_one_calls(books: Books, database_url: str) -> None:
    """Also when neither has seen the key before: each round is a new one."""
    others = [Ledger(make_store(database_url, books.clock), lease_seconds=LEASE_S) for _ in range(2)]
    for other in others:
        other.start()
        async with reservation(books, None, other) as warm:
            warm.set_usage(Usage(0, 0))
    charges = len(await books.charges())
    for number in range(10):
        attempt = KeyedRequest(f"key {number}", "a" * 64)
        entering = [reservation(books, attempt, other).__aenter__() for other in others * 3]
        answers = await asyncio.gather(*entering, return_exceptions=True)
        [made] = [answer for answer in answers if isinstance(answer, Reservation)]
        refusals = [type(answer) for answer in answers if answer is not made]
        assert refusals == [IdempotencyInFlight] * 5
        made.set_usage(Usage(1, 1))
        made.store_response(bill)
        leaving = made.__aexit__(None, None, None)
        entering = [reservation(books, attempt, other).__aenter__() for other in others]
        _, *replays = await asyncio.gather(leaving, *entering, return_exceptions=True)
        for replay in replays:
            assert isinstance(replay, IdempotencyInFlight) or (isinstance(replay, Reservation) and replay.replayed)
    for other in others:
        await other.stop()
    paid = [charge for charge in (await books.charges()).values() if charge.cost_tokens]
    assert len(paid) == 10
    assert charges == 2


async def test_processes_that_write_the_same_keys_never_deadlock(database: Database, database_url: str) -> None:
    """Whatever the order in which a batch names them, and whether it keeps answers or takes keys over."""
    first = await make_principal(database)
    users = [first] + [await make_principal(database, first.tenant_id) for _ in range(3)]
    async with open_books(database_url) as books:
        for user in users:
            await set_limit(books.ledger, user_quota(user), 10**9)
        numbers = itertools.count()
        stores = [make_store(database_url, books.clock) for _ in range(2)]
        one, two = stores
        await asyncio.gather(busy(books, one, numbers, users), busy(books, two, numbers, users[::-1]))
        for store in stores:
            await store.close()
        assert len((await books.snapshot()).keys) == len(users) * 2


async def busy(books: Books, store: Store, numbers: "itertools.count[int]", order: list[Principal]) -> None:
    """Rounds of calls under two keys a user, taken over when they are a day old."""
    mine: list[tuple[str, KeyName]] = []
    for turn in range(40):
        settles = [
            Settle(one, Usage(1, 1), Basis.PROVIDER, store_response=StoreResponse(name, bill))
            for one, name in (mine if turn % 2 else mine[::-1])
        ]
        attempts = [(user, KeyedRequest(key, "a" * 64)) for user in order for key in ("x", "y")]
        reserves = [
            Reserve(f"c{next(numbers)}", user, make_terms(1, 1), LEASE_MS, keyed_request=one) for user, one in attempts
        ]
        answers = await batch(store, *settles, *reserves)
        assert not [
            one for one in answers if isinstance(one, TollkeeperError) and not isinstance(one, IdempotencyError)
        ]
        admitted = {one.charge_id for one in answers if isinstance(one, Hold)}
        mine = [
            (one.charge_id, KeyName(one.caller.user_id, one.keyed_request.key))
            for one in reserves
            if one.charge_id in admitted and one.keyed_request is not None
        ]
        if turn % 5 == 0:
            books.clock.step(DAY_S / 2)


async def test_keys_that_are_a_day_old_are_forgotten_some_at_a_time(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "KEY_DELETION_BATCH", 3)
    monkeypatch.setattr(ledger_module, "KEY_DELETION_PAUSE_S", 0)
    for number in range(8):
        await call(books, attempt=KeyedRequest(f"old {number}", "a" * 64))
    books.clock.ms += 1
    await call(books)
    books.clock.ms += DAY_S * 1000 - 2
    assert await books.ledger.delete_old_keys() == 0
    books.clock.ms += 1
    assert await books.ledger.delete_old_keys() == 8
    assert (await key_row(books)).key == ONE.key
    assert (await call(books)).replayed is not None
    assert await books.ledger.delete_old_keys() == 0
    assert (await call(books, attempt=KeyedRequest("old 1", "b" * 64))).replayed is None


async def test_forgetting_fails_as_an_outage(books: Books) -> None:
    books.store.down = True
    with pytest.raises(LedgerUnavailable):
        await books.ledger.delete_old_keys()
