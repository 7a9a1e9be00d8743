"""A further attempt of a call: a charge of its own, held with the room of the one that failed, which costs nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from books import LEASE_S, Books, open_books
from faulty_store import Fault

from support.factories import make_store, make_terms
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerUnavailable, ProviderUnavailable, QuotaExceeded, QuotaHeld, Unauthenticated
from tollkeeper.quota import in_flight
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Terms
from tollkeeper.quota.time_sorted_ids import new_id

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
async def books(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Books]:
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    async with open_books(database_url) as made:
        yield made


async def ends(books: Books) -> list[tuple[str, str | None, int]]:
    """How each charge stands; those released first."""
    charges = sorted((await books.charges()).values(), key=lambda charge: charge.state)
    return [(charge.state, charge.basis, charge.cost_tokens) for charge in charges]


async def test_each_further_attempt_is_listed_behind_the_one_before_even_within_a_millisecond(books: Books) -> None:
    ids = []
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        ids.append(reservation.charge_id)
        for _ in range(5):
            await reservation.extend(make_terms(), "provider_unavailable")
            ids.append(reservation.charge_id)
        reservation.set_usage(Usage(1, 1))
    assert ids == sorted(ids)
    far = "chg_ffff" + "0" * 28
    assert new_id("chg", after=far) == f"{far[:-1]}1"
    assert len(new_id("chg")) == len(far)


async def try_to_extend(reservation: Reservation, terms: Terms, error: Exception | None = None) -> None:
    """A call whose second attempt fails with `error`."""
    async with reservation:
        await reservation.extend(terms, "provider_error")
        if error is not None:
            raise error


async def test_each_attempt_is_a_charge_of_its_own_and_only_the_last_is_paid(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(10, 90)) as reservation:
        first = reservation.charge_id
        runs = books.store.runs
        await reservation.extend(make_terms(20, 180), "provider_unavailable")
        assert books.store.runs == runs + 1, "one commit for both"
        assert reservation.charge_id != first
        assert (reservation.granted_output, reservation.checkpoint) == (180, (20, 0))
        assert reservation.terms == make_terms(20, 180)
        [balance] = reservation.hold.balances
        assert (balance.used, balance.reserved) == (0, 200)
        assert books.ledger.in_flight == 1
        reservation.set_usage(Usage(7, 30))
    assert reservation.closed is not None
    assert (reservation.closed.charge_id, reservation.closed.cost_tokens) == (reservation.charge_id, 37)
    assert await ends(books) == [("released", "none", 0), ("settled", "provider", 37)]
    [found] = await books.reader.read("SELECT error FROM charges ORDER BY state")
    assert found == [("provider_unavailable",), (None,)]
    assert books.ledger.in_flight == 0


async def test_the_next_attempt_has_the_room_of_the_one_that_failed(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(10, 990)) as reservation:
        await reservation.extend(make_terms(10, 5_000, least=16), "provider_error")
        assert reservation.granted_output == 990
        await reservation.extend(make_terms(10, 40), "provider_error")
        assert (await books.window()).pending == 50, "a smaller hold gives the rest back"
        reservation.set_usage(Usage(1, 1))
    assert [state for state, _, _ in await ends(books)] == ["released", "released", "settled"]


async def test_refused_the_attempt_that_failed_is_released_all_the_same(books: Books) -> None:
    reservation = books.ledger.reservation(books.caller, make_terms(10, 90))
    with pytest.raises(QuotaExceeded):
        await try_to_extend(reservation, make_terms(10, 2_000))
    assert reservation.closed is not None
    assert (reservation.closed.basis, reservation.closed.cost_tokens) == (Basis.NONE, 0)
    assert await ends(books) == [("released", "none", 0)]
    assert books.ledger.in_flight == 0


async def test_calls_in_flight_are_in_its_way_as_in_anyones(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(0, 500)) as other:
        with pytest.raises(QuotaHeld):
            await try_to_extend(books.ledger.reservation(books.caller, make_terms(0, 90)), make_terms(0, 501))
        other.set_usage(Usage(1, 1))
    assert (await books.window()).settled == 2


async def test_who_was_shut_out_meanwhile_gets_no_further_attempt(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        await books.reader.execute("UPDATE users SET token_version = 1")
        with pytest.raises(Unauthenticated):
            await reservation.extend(make_terms(), "provider_error")
    assert await ends(books) == [("released", "none", 0)]


async def test_after_a_refusal_a_smaller_attempt_may_follow(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(10, 90)) as reservation:
        with pytest.raises(QuotaExceeded):
            await reservation.extend(make_terms(10, 2_000), "provider_error")
        assert books.ledger.in_flight == 0
        await reservation.extend(make_terms(10, 20), "quota_exceeded")
        reservation.set_usage(Usage(1, 1))
    assert await ends(books) == [("released", "none", 0), ("settled", "provider", 2)]


async def test_a_last_attempt_that_cannot_have_been_billed_costs_nothing(books: Books) -> None:
    reservation = books.ledger.reservation(books.caller, make_terms())
    with pytest.raises(ProviderUnavailable):
        await try_to_extend(reservation, make_terms(), ProviderUnavailable())
    assert await ends(books) == [("released", "none", 0)] * 2


async def test_one_whose_outcome_is_unknown_costs_its_own_checkpoint(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(50, 90)) as reservation:
        await reservation.extend(make_terms(10, 90), "provider_error")
        reservation.checkpoint = (8, 3)
    assert await ends(books) == [("released", "none", 0), ("settled", "unknown", 11)]


async def test_a_report_from_the_attempt_that_failed_is_not_the_next_ones(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(10, 90)) as reservation:
        reservation.set_usage(Usage(5, 5))
        await reservation.extend(make_terms(20, 90), "provider_error")
    assert await ends(books) == [("released", "none", 0), ("settled", "unknown", 20)]


async def test_an_attempt_that_was_swept_up_is_corrected_and_the_next_one_held(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(10, 90)) as reservation:
        await sweep_elsewhere(books)
        assert (await books.window()).settled == 10
        await reservation.extend(make_terms(10, 90), "provider_error")
        window = await books.window()
        assert (window.settled, window.pending) == (0, 100)
        reservation.set_usage(Usage(7, 30))
    assert (await books.window()).settled == 37


async def sweep_elsewhere(books: Books) -> None:
    books.clock.step(LEASE_S + 1)
    other = Ledger(books.store, lease_seconds=LEASE_S)
    other.start()
    assert await other.sweep() == 1
    await other._journal.stop()


async def test_a_renewal_on_its_way_does_not_find_the_attempt_before_lost(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        books.store.before.clear()
        books.store.begun.clear()
        extending = asyncio.create_task(reservation.extend(make_terms(), "provider_error"))
        await books.store.begun.wait()
        renewing = asyncio.create_task(books.ledger.renew())
        await asyncio.sleep(0)
        books.store.before.set()
        await asyncio.gather(extending, renewing)
        assert not reservation.is_lost
        reservation.set_usage(Usage(1, 1))


@pytest.mark.parametrize("fault", list(Fault))
async def test_whatever_became_of_the_commit_it_happens_once(books: Books, fault: Fault) -> None:
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        books.store.faults.append(fault)
        await reservation.extend(make_terms(), "provider_error")
        assert (await books.window()).pending == 100
        reservation.set_usage(Usage(7, 30))
    assert await ends(books) == [("released", "none", 0), ("settled", "provider", 37)]


@pytest.mark.parametrize("fault", list(Fault))
async def test_refused_it_is_refused_whatever_became_of_the_commit(books: Books, fault: Fault) -> None:
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        books.store.faults.append(fault)
        with pytest.raises(QuotaExceeded):
            await reservation.extend(make_terms(10, 2_000), "provider_error")
    assert await ends(books) == [("released", "none", 0)]


async def nothing_is_held(books: Books) -> None:
    await books.idle()
    assert {state for state, _, _ in await ends(books)} == {"released"}
    assert (await books.window()).pending == 0
    assert books.ledger.in_flight == 0


async def test_cancelled_in_the_queue_it_leaves_no_hold(books: Books) -> None:
    reservation = books.ledger.reservation(books.caller, make_terms())
    calling = asyncio.create_task(try_to_extend(reservation, make_terms()))
    while books.ledger.in_flight == 0:
        await asyncio.sleep(0)
    books.store.before.clear()
    while not books.ledger._journal._queue:
        await asyncio.sleep(0)
    calling.cancel()
    books.store.before.set()
    await asyncio.gather(calling, return_exceptions=True)
    await nothing_is_held(books)


async def test_cancelled_in_its_commit_it_leaves_no_hold(books: Books) -> None:
    reservation = books.ledger.reservation(books.caller, make_terms())
    calling = asyncio.create_task(try_to_extend(reservation, make_terms()))
    while books.store.runs < 1 or books.ledger.in_flight == 0:
        await asyncio.sleep(0)
    books.store.after.clear()
    while books.store.runs < 2:
        await asyncio.sleep(0)
    calling.cancel()
    books.store.after.set()
    await asyncio.gather(calling, return_exceptions=True)
    await nothing_is_held(books)
    assert len(await books.charges()) == 2


async def test_cancelled_when_the_answer_is_there_and_not_yet_taken_it_leaves_no_hold(books: Books) -> None:
    reservation = await books.ledger.reservation(books.caller, make_terms()).__aenter__()
    extending = asyncio.create_task(reservation.extend(make_terms(), "provider_error"))
    books.store.committed = lambda: asyncio.get_running_loop().call_soon(extending.cancel)
    with pytest.raises(asyncio.CancelledError):
        await extending
    books.store.committed = lambda: None
    await reservation.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)
    await nothing_is_held(books)


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.NEVER_COMMITTED])
async def test_cancelled_after_a_commit_whose_answer_was_lost_it_leaves_no_hold(books: Books, fault: Fault) -> None:
    reservation = await books.ledger.reservation(books.caller, make_terms()).__aenter__()
    books.store.faults.extend([fault, Fault.REFUSED])
    books.store.before.clear()
    books.store.begun.clear()
    extending = asyncio.create_task(reservation.extend(make_terms(), "provider_error"))
    await books.store.begun.wait()
    extending.cancel()
    books.store.before.set()
    await asyncio.gather(extending, return_exceptions=True)
    await reservation.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)
    await nothing_is_held(books)


async def test_an_outage_refuses_it_after_a_moment_and_leaves_no_hold(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservation = await books.ledger.reservation(books.caller, make_terms()).__aenter__()
    monkeypatch.setattr(in_flight, "RESERVE_WAIT_S", 0.03)
    monkeypatch.setattr(in_flight, "SETTLE_WAIT_S", 0.03)
    books.store.down = True
    with pytest.raises(LedgerUnavailable):
        await reservation.extend(make_terms(), "provider_error")
    await reservation.__aexit__(LedgerUnavailable, LedgerUnavailable(), None)
    assert books.ledger.in_flight == 1, "the attempt that failed is this process's until its release has landed"
    books.store.down = False
    await nothing_is_held(books)


async def test_the_error_of_an_attempt_is_kept_as_far_as_there_is_room(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        await reservation.extend(make_terms(), "x" * 500)
        reservation.set_usage(Usage(1, 1))
    [found] = await books.reader.read("SELECT error FROM charges ORDER BY state")
    assert found == [("x" * 40,), (None,)]


async def test_another_process_may_end_what_this_one_extended(books: Books, database_url: str) -> None:
    """What is remembered of the attempt before does not outlive it."""
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        await reservation.extend(make_terms(), "provider_error")
        other = Ledger(make_store(database_url, books.clock), lease_seconds=LEASE_S)
        other.start()
        books.clock.step(LEASE_S + 1)
        assert await other.sweep() == 1
        await other.stop()
        reservation.set_usage(Usage(10, 50))
    assert await ends(books) == [("released", "none", 0), ("settled", "provider", 60)]
