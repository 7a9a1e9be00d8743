"""Leases: what is alive is renewed, what is lost is swept up, and what comes late is adjusted; and the last things."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from books import LEASE_S, Books, open_books

from support.factories import make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict, LedgerUnavailable
from tollkeeper.quota import in_flight
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota import ledger as ledger_module
from tollkeeper.quota.ledger import Ledger

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
async def books(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Books]:
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    async with open_books(database_url) as made:
        yield made


async def sweep_elsewhere(books: Books) -> int:
    """By another process."""
    other = Ledger(books.store, lease_seconds=LEASE_S)
    other.start()
    swept = await other.sweep()
    await other._journal.stop()
    return swept


async def test_a_renewal_moves_the_lease_and_the_checkpoint_of_every_call_in_flight(books: Books) -> None:
    one, two = (books.ledger.reservation(books.caller, make_terms()) for _ in range(2))
    async with one, two:
        two.checkpoint = (10, 44)
        books.clock.step(20)
        books.store.runs = 0
        await books.ledger.renew()
        assert books.store.runs == 1
        charges = await books.charges()
        until = books.clock.ms + LEASE_S * 1000
        assert [charges[call.charge_id].lease_ms for call in (one, two)] == [until, until]
        assert charges[two.charge_id].checkpoint_output == 44


async def test_nothing_in_flight_needs_no_renewal(books: Books) -> None:
    await books.ledger.renew()
    assert books.store.runs == 0


async def test_a_call_found_expired_brings_its_truth_as_an_adjustment(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(10, 90)) as reservation:
        books.clock.step(LEASE_S + 1)
        assert await sweep_elsewhere(books) == 1
        await books.ledger.renew()
        window = await books.window()
        assert (window.settled, window.forgiven, window.pending) == (10, 90, 0)
        reservation.set_usage(Usage(10, 50))
    window = await books.window()
    assert (window.settled, window.forgiven, window.pending) == (60, 40, 0)
    charge = await books.only_charge()
    assert (charge.adjusted, charge.overrun, charge.basis) == (True, False, "provider")


async def test_a_renewal_takes_the_checkpoint_of_who_measures(books: Books) -> None:
    async def fail() -> tuple[int, int]:
        raise ZeroDivisionError

    async def measure() -> tuple[int, int]:
        return 10, 44

    one, two = (books.ledger.reservation(books.caller, make_terms()) for _ in range(2))
    async with one, two:
        one.measure, two.measure = fail, measure
        await books.ledger.renew()
        assert [one.checkpoint, two.checkpoint] == [(10, 0), (10, 0)]  # not before a call has lasted for two renewals
        await books.ledger.renew()
        charges = await books.charges()
        assert [charges[call.charge_id].checkpoint_output for call in (one, two)] == [0, 44]


async def test_one_that_takes_too_long_to_measure_is_renewed_all_the_same(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_flight, "CHECKPOINT_LEASE_SHARE", 0.0005)

    async def measure() -> tuple[int, int]:
        await asyncio.Event().wait()
        raise AssertionError

    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        reservation.measure = measure
        await books.ledger.renew()
        books.clock.step(20)
        await books.ledger.renew()
        charge = await books.only_charge()
        assert (charge.lease_ms, charge.checkpoint_input) == (books.clock.ms + LEASE_S * 1000, 10)


async def test_a_checkpoint_of_an_attempt_that_failed_is_not_the_next_ones(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:

        async def measure() -> tuple[int, int]:
            await reservation.extend(make_terms(5, 90), "provider_error")
            return 10, 44

        reservation.measure = measure
        await reservation.update_checkpoint()
        await reservation.update_checkpoint()
        assert reservation.checkpoint == (5, 0)


async def test_a_call_found_closed_is_told_once_and_runs_on(books: Books) -> None:
    told = []
    silent = books.ledger.reservation(books.caller, make_terms(10, 90))
    async with silent, books.ledger.reservation(books.caller, make_terms(10, 90)) as reservation:
        reservation.on_lost = lambda: told.append(True)
        await books.ledger.renew()
        assert not reservation.is_lost
        books.clock.step(LEASE_S + 1)
        assert await sweep_elsewhere(books) == 2
        await books.ledger.renew()
        await books.ledger.renew()
        assert (reservation.is_lost, silent.is_lost, told) == (True, True, [True])
        for call in (reservation, silent):
            call.set_usage(Usage(10, 50))
    assert (await books.window()).settled == 120


async def test_one_that_cannot_be_told_hinders_nobody(books: Books) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    one, two = (books.ledger.reservation(books.caller, make_terms(1, 1)) for _ in range(2))
    async with one, two:
        one.on_lost = two.on_lost = fail
        books.clock.step(LEASE_S + 1)
        assert await sweep_elsewhere(books) == 2
        await books.ledger.renew()
        assert one.is_lost
        assert two.is_lost


async def test_a_process_never_expires_its_own_calls(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        books.clock.step(LEASE_S * 10)
        assert await books.ledger.sweep() == 0
        reservation.set_usage(Usage(1, 1))
    charge = await books.only_charge()
    assert (charge.closed_by, charge.adjusted) == ("settle", False)


async def test_one_sweep_ends_every_call_of_a_process_that_was_lost(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "SWEEP_BATCH", 10)
    lost = Ledger(books.store, lease_seconds=LEASE_S)
    lost.start()
    await asyncio.gather(*(lost.reservation(books.caller, make_terms(1, 1)).__aenter__() for _ in range(35)))
    await lost._journal.stop()
    books.clock.step(LEASE_S + 1)
    assert await books.ledger.sweep() == 35
    assert (await books.window()).pending == 0
    assert await books.ledger.sweep() == 0


async def test_a_refund_is_given_once(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(7, 30))
    assert await books.ledger.refund(reservation.charge_id, actor="operator", reason="goodwill") == 37
    with pytest.raises(LedgerConflict):
        await books.ledger.refund(reservation.charge_id, actor="operator", reason="goodwill")
    window = await books.window()
    assert (window.settled, window.pending) == (0, 0)


async def test_an_administrator_waits_longer_than_a_caller_and_not_for_ever(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "ADMINISTER_WAIT_S", 0.03)
    books.store.down = True
    with pytest.raises(LedgerUnavailable):
        await set_limit(books.ledger, user_quota(books.caller), 5)
    books.store.down = False
    await books.idle()
    assert (await books.window()).granted == 1_000


async def test_what_is_queued_lands_before_the_end(books: Books) -> None:
    reservation = await books.ledger.reservation(books.caller, make_terms()).__aenter__()
    reservation.set_usage(Usage(7, 30))
    books.store.before.clear()
    leaving = asyncio.create_task(reservation.__aexit__(None, None, None))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(books.stop())
    await asyncio.sleep(0)
    books.store.before.set()
    await asyncio.gather(leaving, stopping)
    assert (await books.only_charge()).cost_tokens == 37


async def test_an_end_does_not_wait_for_ever(books: Books) -> None:
    """What has not landed by then is the next sweep's: the lease is over, and the checkpoint is booked."""
    reservation = await books.ledger.reservation(books.caller, make_terms()).__aenter__()
    books.store.down = True
    leaving = asyncio.create_task(reservation.__aexit__(None, None, None))
    await asyncio.sleep(0)
    await books.stop(drain_seconds=0.02)
    leaving.cancel()
    assert (await books.only_charge()).state == "dispatched"
