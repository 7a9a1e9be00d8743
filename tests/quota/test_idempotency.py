"""Idempotency keys (P6): the same key and request are one call, one charge, and the same answer for 24 hours."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from books import LEASE_S, Books, batch, open_books
from keyed_calls import DAY_S, LEASE_MS, ONE, Answer, bill, call, key_row, refusal, reservation

from support.factories import make_principal, make_terms, set_limit, user_quota
from tollkeeper.chat import Price, Usage
from tollkeeper.errors import (
    IdempotencyInFlight,
    IdempotencyMismatch,
    LedgerConflict,
    LedgerUnavailable,
    PreviousAttemptInterrupted,
    ProviderUnavailable,
    QuotaExceeded,
    Unauthenticated,
)
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota.audit.verify import verify
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.idempotency_keys import MAX_STORED_BYTES, KeyedRequest, KeyName, StoredResponse
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import ClosedCharge, Replayed, Reserve, Settle, StoreResponse

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
async def books(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Books]:
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    async with open_books(database_url) as made:
        yield made


async def test_the_same_request_is_one_call_and_gets_the_same_answer(books: Books) -> None:
    first = await call(books)
    assert first.replayed is None
    again = await call(books)
    assert again.replayed is not None
    assert again.replayed.response == StoredResponse(200, "application/json", b'{"cost":37}')
    [balance] = again.replayed.balances
    assert (balance.used, balance.reserved) == (37, 0)
    charges = await books.charges()
    assert len(charges) == 2
    charge = charges[again.charge_id]
    assert (charge.state, charge.basis, charge.cost_tokens, charge.held_tokens) == ("settled", "cache", 0, 0)
    assert (await books.window()).settled == 37
    assert (await key_row(books)).charge_id == first.charge_id


async def test_a_replay_holds_nothing_and_cannot_be_misused(books: Books) -> None:
    await call(books)
    runs = books.store.runs
    with pytest.raises(ZeroDivisionError):
        await misuse(books)
    assert books.store.runs == runs + 1, "one commit, and none for the exit"
    assert [charge.cost_tokens for charge in (await books.charges()).values()] == [37, 0]
    assert books.ledger.in_flight == 0


async def misuse(books: Books) -> None:
    async with reservation(books) as replay:
        assert replay.granted_output == 0
        assert replay.hold.balances
        assert replay.closed is not None
        assert (replay.closed.basis, replay.closed.cost_tokens) == (Basis.CACHE, 0)
        replay.set_usage(Usage(500, 500))
        with pytest.raises(LedgerConflict):
            await replay.extend(make_terms(), "provider_error")
        raise ZeroDivisionError


async def test_the_books_are_clean_with_a_replay_in_money_too(books: Books) -> None:
    terms = make_terms(10, 90, price=Price(1_000_000, 1_000_000, 1_000_000))
    for _ in range(2):
        async with books.ledger.reservation(books.caller, terms, keyed_request=ONE) as made:
            made.set_usage(Usage(7, 30))
            made.store_response(bill)
    assert made.closed is not None
    assert (made.closed.basis, made.closed.cost_micro_usd) == (Basis.CACHE, 0)
    report = await verify(books.database, now_ms=books.clock.ms)
    assert (report.problems, report.charges, report.open_holds) == ([], 2, 0)


async def test_a_replay_cannot_be_refunded(books: Books) -> None:
    await call(books)
    replay = await call(books)
    with pytest.raises(LedgerConflict):
        await books.ledger.refund(replay.charge_id, actor="operator", reason="test")


async def test_another_request_is_refused(books: Books) -> None:
    await call(books)
    assert await refusal(books, KeyedRequest(ONE.key, "b" * 64)) is IdempotencyMismatch


async def test_while_the_first_is_in_flight_the_second_is_refused(books: Books) -> None:
    async with reservation(books) as first:
        assert await refusal(books) is IdempotencyInFlight
        assert await refusal(books, KeyedRequest(ONE.key, "b" * 64)) is IdempotencyMismatch
        first.set_usage(Usage(1, 1))


async def test_of_several_in_one_batch_one_is_admitted(books: Books) -> None:
    books.store.before.clear()
    entering = [asyncio.create_task(reservation(books).__aenter__()) for _ in range(5)]
    await books.store.begun.wait()
    books.store.before.set()
    answers = await asyncio.gather(*entering, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["IdempotencyInFlight"] * 4 + ["Reservation"]
    assert len(await books.charges()) == 1


async def test_within_a_batch_an_answer_is_there_for_who_comes_after_it(books: Books) -> None:
    await batch(books.store, Reserve("a", books.caller, make_terms(), LEASE_MS, keyed_request=ONE))
    settle = Settle(
        "a", Usage(7, 30), Basis.PROVIDER, store_response=StoreResponse(KeyName(books.caller.user_id, ONE.key), bill)
    )
    [_, replay] = await batch(
        books.store, settle, Reserve("b", books.caller, make_terms(), LEASE_MS, keyed_request=ONE)
    )
    assert isinstance(replay, Replayed)
    assert replay.response.body == b'{"cost":37}'


def fail(closed: ClosedCharge) -> StoredResponse:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "answer",
    [
        None,
        lambda closed: None,
        fail,
        lambda closed: StoredResponse(200, "text/plain", b"x" * (MAX_STORED_BYTES + 1)),
        lambda closed: StoredResponse(200, "text/\0plain", b""),
        lambda closed: StoredResponse(200, "x" * 101, b""),
        lambda closed: StoredResponse(10**12, "text/plain", b""),
        lambda closed: "no answer at all",
    ],
    ids=["never said", "none", "fails", "too long", "unprintable", "a long type", "no status", "another type"],
)
async def test_where_no_answer_could_be_kept_the_next_call_is_refused(books: Books, answer: Answer | None) -> None:
    """And the settle lands whatever the answer is."""
    first = await call(books, answer)
    assert first.closed is not None
    assert (first.closed.cost_tokens, len(first.closed.balances)) == (37, 1)
    assert await refusal(books) is PreviousAttemptInterrupted


async def test_the_longest_answer_that_is_kept(books: Books) -> None:
    body = bytes(range(256)) * 1024
    assert len(body) == MAX_STORED_BYTES
    await call(books, lambda closed: StoredResponse(207, "application/octet-stream", body))
    again = await call(books)
    assert again.replayed is not None
    assert again.replayed.response == (207, "application/octet-stream", body)


async def test_an_answer_of_no_bytes_is_an_answer(books: Books) -> None:
    await call(books, lambda closed: StoredResponse(200, "", b""))
    again = await call(books)
    assert again.replayed is not None
    assert again.replayed.response == (200, "", b"")


async def test_after_an_unknown_outcome_the_next_call_is_refused(books: Books) -> None:
    async with reservation(books):
        pass
    assert await refusal(books) is PreviousAttemptInterrupted


async def test_after_a_call_that_was_lost_with_its_process_the_next_one_is_refused(books: Books) -> None:
    await lose_a_call(books)
    assert await refusal(books) is PreviousAttemptInterrupted


async def lose_a_call(books: Books) -> None:
    await batch(books.store, Reserve("lost", books.caller, make_terms(), LEASE_MS, keyed_request=ONE))
    books.clock.step(LEASE_S + 1)
    assert await books.ledger.sweep() == 1


async def test_a_late_answer_is_kept_with_the_late_truth(books: Books) -> None:
    await lose_a_call(books)
    keep = StoreResponse(KeyName(books.caller.user_id, ONE.key), bill)
    await batch(books.store, Settle("lost", Usage(7, 30), Basis.PROVIDER, store_response=keep))
    again = await call(books)
    assert again.replayed is not None
    assert again.replayed.response.body == b'{"cost":37}'


async def test_a_refused_call_does_not_use_up_its_key(books: Books) -> None:
    with pytest.raises(QuotaExceeded):
        await books.ledger.reservation(books.caller, make_terms(10, 5_000), keyed_request=ONE).__aenter__()
    assert (await books.snapshot()).keys == {}
    assert (await call(books)).replayed is None


async def test_a_released_call_frees_its_key(books: Books) -> None:
    with pytest.raises(ProviderUnavailable):
        await fail_unbilled(books)
    other = KeyedRequest(ONE.key, "b" * 64)
    assert (await call(books, attempt=other)).replayed is None
    assert (await key_row(books)).fingerprint == other.fingerprint


async def fail_unbilled(books: Books) -> None:
    async with reservation(books) as made:
        made.store_response(bill)
        raise ProviderUnavailable


async def test_a_call_that_was_swept_up_and_then_found_to_have_cost_nothing_frees_its_key(books: Books) -> None:
    made = await reservation(books).__aenter__()
    books.clock.step(LEASE_S + 1)
    other = Ledger(books.store, lease_seconds=LEASE_S)
    other.start()
    assert await other.sweep() == 1
    await other._journal.stop()
    await made.__aexit__(ProviderUnavailable, ProviderUnavailable(), None)
    assert (await call(books)).replayed is None


async def test_a_reserve_that_never_went_out_frees_its_key(books: Books) -> None:
    await batch(books.store, Reserve("job", books.caller, make_terms(), LEASE_MS, dispatch=False, keyed_request=ONE))
    assert await refusal(books) is IdempotencyInFlight
    books.clock.step(LEASE_S + 1)
    assert await books.ledger.sweep() == 1
    assert (await call(books)).replayed is None


async def test_an_answer_stands_for_a_day(books: Books) -> None:
    await call(books)
    books.clock.ms += DAY_S * 1000 - 1
    assert (await call(books)).replayed is not None
    books.clock.ms += 1
    later = await call(books)
    assert later.replayed is None
    assert (await key_row(books)).charge_id == later.charge_id
    assert (await call(books)).replayed is not None


async def test_a_refused_call_does_not_take_over_an_old_key(books: Books) -> None:
    await call(books)
    before = await key_row(books)
    books.clock.step(DAY_S)
    with pytest.raises(QuotaExceeded):
        await books.ledger.reservation(books.caller, make_terms(10, 5_000), keyed_request=ONE).__aenter__()
    assert await key_row(books) == before


async def test_who_lost_the_key_leaves_no_answer_under_it(books: Books) -> None:
    """A call that runs for more than a day, whose key is another's by then."""
    async with reservation(books) as old:
        books.clock.step(DAY_S)
        await books.ledger.renew()
        async with reservation(books) as new:
            old.set_usage(Usage(1, 1))
            old.store_response(bill)
            await old.__aexit__(None, None, None)
            assert (await key_row(books)).status is None
            new.set_usage(Usage(2, 2))
            new.store_response(bill)
    row = await key_row(books)
    assert (row.charge_id, row.body) == (new.charge_id, b'{"cost":4}')


async def test_a_key_is_its_users_own(books: Books) -> None:
    await call(books)
    other = await make_principal(books.database, books.caller.tenant_id)
    await set_limit(books.ledger, user_quota(other), 1_000)
    async with books.ledger.reservation(other, make_terms(), keyed_request=ONE) as made:
        assert made.replayed is None
        made.set_usage(Usage(1, 1))


async def test_a_replay_is_checked_as_a_call_is(books: Books) -> None:
    await call(books)
    await books.reader.execute("UPDATE users SET token_version = 1")
    with pytest.raises(Unauthenticated):
        await reservation(books).__aenter__()
    assert len(await books.charges()) == 1


async def test_a_replay_needs_no_room(books: Books) -> None:
    await call(books)
    await set_limit(books.ledger, user_quota(books.caller), 0)
    assert (await call(books)).replayed is not None


async def test_an_answer_is_only_kept_under_a_key(books: Books) -> None:
    async with reservation(books, attempt=None) as made:
        made.set_usage(Usage(1, 1))
        made.store_response(bill)
    assert (await books.snapshot()).keys == {}


async def test_a_call_without_a_key_looks_at_none(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError

    for name in (
        "sqlite.row_cache.read_keys",
        "sqlite.writes.write_keys",
        "postgres.page_reader.read_keys",
        "postgres.writes.write_keys",
    ):
        monkeypatch.setattr(f"tollkeeper.quota.stores.{name}", unexpected)
    async with reservation(books, attempt=None) as made:
        await made.extend(make_terms(), "provider_error")
        made.set_usage(Usage(1, 1))
    assert (await books.window()).settled == 2
    with pytest.raises(LedgerUnavailable):
        await reservation(books).__aenter__()
