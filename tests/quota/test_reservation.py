"""A call's reservation: one entrance, one exit, and what the exit makes of whatever happened inside."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from books import Books, open_books
from faulty_store import Fault

from support.factories import make_terms
from tollkeeper.chat import Usage
from tollkeeper.errors import (
    LedgerUnavailable,
    ProviderBadResponse,
    ProviderFailed,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExceeded,
    TollkeeperError,
)
from tollkeeper.quota import in_flight
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.models import Basis

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
async def books(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Books]:
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    async with open_books(database_url) as made:
        yield made


async def call(
    books: Books, error: BaseException, *, report: Usage | None = None, checkpoint: tuple[int, int] | None = None
) -> Reservation:
    """A call that fails, and comes out with what it failed with."""
    reservation = books.ledger.reservation(books.caller, make_terms(10, 90))

    async def fail() -> None:
        async with reservation:
            if report is not None:
                reservation.set_usage(report)
            if checkpoint is not None:
                reservation.checkpoint = checkpoint
            raise error

    with pytest.raises(type(error)):
        await fail()
    return reservation


async def test_what_was_reported_is_what_is_paid(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(10, 90)) as reservation:
        assert reservation.granted_output == 90
        assert (await books.window()).pending == 100
        reservation.set_usage(Usage(7, 30))
    assert reservation.closed is not None
    assert (reservation.closed.cost_tokens, reservation.closed.basis) == (37, Basis.PROVIDER)
    [balance] = reservation.closed.balances
    assert (balance.used, balance.reserved, balance.remaining) == (37, 0, 963)
    charge = await books.only_charge()
    assert (charge.state, charge.basis, charge.input_tokens, charge.output_tokens) == ("settled", "provider", 7, 30)


async def test_a_report_of_zero_is_a_report(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(0, 0))
    charge = await books.only_charge()
    assert (charge.state, charge.basis, charge.cost_tokens) == ("settled", "provider", 0)


async def test_a_report_stands_though_the_call_failed_after_it(books: Books) -> None:
    await call(books, ProviderFailed(), report=Usage(7, 30))
    charge = await books.only_charge()
    assert (charge.state, charge.cost_tokens) == ("settled", 37)


async def test_a_count_is_paid_up_to_the_hold(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(10, 90)) as reservation:
        reservation.set_usage(Usage(50, 500), Basis.COUNTED)
    charge = await books.only_charge()
    assert (charge.basis, charge.cost_tokens, charge.overrun) == ("counted", 100, False)


async def test_a_report_above_the_hold_is_booked_in_full_and_flagged(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(10, 90)) as reservation:
        reservation.set_usage(Usage(50, 5_000))
    assert reservation.closed is not None
    assert reservation.closed.overrun
    assert (await books.only_charge()).cost_tokens == 5_050
    with pytest.raises(QuotaExceeded):
        await books.ledger.reservation(books.caller, make_terms(1, 1)).__aenter__()


@pytest.mark.parametrize("error", [ProviderUnavailable(), ProviderFailed()], ids=repr)
async def test_a_failure_that_cannot_have_been_billed_gives_the_hold_back(books: Books, error: TollkeeperError) -> None:
    reservation = await call(books, error)
    assert reservation.closed is not None
    assert reservation.closed.basis is Basis.NONE
    charge = await books.only_charge()
    assert (charge.state, charge.cost_tokens, charge.forgiven_tokens) == ("released", 0, 0)


@pytest.mark.parametrize(
    "error", [ProviderTimeout(), ProviderBadResponse(), asyncio.CancelledError(), ZeroDivisionError()], ids=repr
)
async def test_an_unknown_outcome_costs_its_checkpoint(books: Books, error: BaseException) -> None:
    await call(books, error, checkpoint=(8, 3))
    charge = await books.only_charge()
    assert (charge.basis, charge.cost_tokens, charge.forgiven_tokens) == ("unknown", 11, 89)


async def test_a_block_that_ends_without_a_report_costs_at_least_the_input(books: Books) -> None:
    async with books.ledger.reservation(books.caller, make_terms(10, 90)):
        pass
    charge = await books.only_charge()
    assert (charge.basis, charge.cost_tokens) == ("unknown", 10)


async def test_the_charge_says_what_went_wrong(books: Books) -> None:
    await call(books, ProviderTimeout())
    await call(books, ZeroDivisionError())
    [found] = await books.reader.read("SELECT error FROM charges ORDER BY id")
    assert found == [("provider_timeout",), ("ZeroDivisionError",)]


async def test_an_outage_refuses_after_a_moment_and_admits_nothing_later(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.store.down = True
    with monkeypatch.context() as impatient:
        impatient.setattr(in_flight, "RESERVE_WAIT_S", 0.03)
        with pytest.raises(LedgerUnavailable):
            await books.ledger.reservation(books.caller, make_terms()).__aenter__()
    available = [books.ledger.available]
    books.store.down = False
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(1, 1))
    available.append(books.ledger.available)
    assert available == [False, True]
    assert (await books.charges()).keys() == {reservation.charge_id}


async def test_cancelled_in_the_queue_it_reserves_nothing(books: Books) -> None:
    books.store.before.clear()
    first = asyncio.create_task(books.ledger.reservation(books.caller, make_terms()).__aenter__())
    await books.store.begun.wait()
    second = asyncio.create_task(books.ledger.reservation(books.caller, make_terms()).__aenter__())
    await asyncio.sleep(0)
    second.cancel()
    books.store.before.set()
    await asyncio.gather(first, second, return_exceptions=True)
    assert (await books.only_charge()).id == first.result().charge_id


async def test_cancelled_while_its_reserve_commits_it_is_released(books: Books) -> None:
    books.store.after.clear()
    entering = asyncio.create_task(books.ledger.reservation(books.caller, make_terms()).__aenter__())
    await books.store.begun.wait()
    entering.cancel()
    books.store.after.set()
    with pytest.raises(asyncio.CancelledError):
        await entering
    await released(books)


async def test_cancelled_when_the_answer_is_there_and_not_yet_taken_it_is_released(books: Books) -> None:
    """`__aexit__` never runs for a block that was not entered."""
    books.store.before.clear()
    entering = asyncio.create_task(books.ledger.reservation(books.caller, make_terms()).__aenter__())
    await books.store.begun.wait()
    books.store.committed = lambda: asyncio.get_running_loop().call_soon(entering.cancel)
    books.store.before.set()
    with pytest.raises(asyncio.CancelledError):
        await entering
    books.store.committed = lambda: None
    await released(books)


async def released(books: Books) -> None:
    while books.store.runs < 2:
        await asyncio.sleep(0.001)
    await books.idle()
    charge = await books.only_charge()
    assert (charge.state, charge.cost_tokens) == ("released", 0)
    assert books.ledger.in_flight == 0


async def test_cancelled_while_it_settles_it_settles(books: Books) -> None:
    async def call() -> None:
        async with books.ledger.reservation(books.caller, make_terms()) as reservation:
            reservation.set_usage(Usage(7, 30))
            books.store.begun.clear()
            books.store.before.clear()

    calling = asyncio.create_task(call())
    while books.store.before.is_set():
        await asyncio.sleep(0)
    await books.store.begun.wait()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert calling.cancelled()
    assert books.ledger.in_flight == 1, "it is still this process's"
    books.store.before.set()
    while books.ledger.in_flight:
        await asyncio.sleep(0.001)
    assert (await books.only_charge()).cost_tokens == 37


async def test_a_caller_does_not_wait_for_an_outage_to_end(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is then told as computed, and books itself when it can."""
    monkeypatch.setattr(in_flight, "SETTLE_WAIT_S", 0.03)
    one, two = (books.ledger.reservation(books.caller, make_terms()) for _ in range(2))
    await one.__aenter__()
    await two.__aenter__()
    books.store.down = True
    one.set_usage(Usage(7, 30))
    await one.__aexit__(None, None, None)
    await two.__aexit__(ProviderUnavailable, ProviderUnavailable(), None)
    assert one.closed is not None
    assert two.closed is not None
    assert (one.closed.cost_tokens, one.closed.basis, one.closed.balances) == (37, Basis.PROVIDER, ())
    assert (two.closed.cost_tokens, two.closed.basis, two.closed.balances) == (0, Basis.NONE, ())
    assert books.ledger.in_flight == 2, "their leases are renewed until they have landed"
    books.store.down = False
    await books.idle()
    assert books.ledger.in_flight == 0
    charges = await books.charges()
    assert [charges[call.charge_id].cost_tokens for call in (one, two)] == [37, 0]


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_commit_that_fails_or_is_lost_costs_the_caller_nothing_but_time(books: Books, fault: Fault) -> None:
    books.store.faults.append(fault)
    async with books.ledger.reservation(books.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(7, 30))
        books.store.faults.append(fault)
    assert reservation.closed is not None
    assert reservation.closed.cost_tokens == 37
    assert (await books.window()).settled == 37
