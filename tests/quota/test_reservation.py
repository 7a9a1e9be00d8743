"""A call's reservation: reserved on entry, and settled or released on every exit."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from faulty_store import Fault
from ledger_environment import LedgerEnvironment, open_ledger_environment

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
async def env(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LedgerEnvironment]:
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    async with open_ledger_environment(database_url) as made:
        yield made


async def call(
    env: LedgerEnvironment,
    error: BaseException,
    *,
    report: Usage | None = None,
    checkpoint: tuple[int, int] | None = None,
) -> Reservation:
    """Make a call that raises `error`."""
    reservation = env.ledger.reservation(env.caller, make_terms(10, 90))

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


async def test_the_reported_usage_is_charged(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        assert reservation.granted_output == 90
        assert (await env.window()).pending == 100
        reservation.set_usage(Usage(7, 30))
    assert reservation.closed is not None
    assert (reservation.closed.cost_tokens, reservation.closed.basis) == (37, Basis.PROVIDER)
    [balance] = reservation.closed.balances
    assert (balance.used, balance.reserved, balance.remaining) == (37, 0, 963)
    charge = await env.only_charge()
    assert (charge.state, charge.basis, charge.input_tokens, charge.output_tokens) == ("settled", "provider", 7, 30)


async def test_a_report_of_zero_is_a_report(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(0, 0))
    charge = await env.only_charge()
    assert (charge.state, charge.basis, charge.cost_tokens) == ("settled", "provider", 0)


async def test_a_report_stands_though_the_call_failed_after_it(env: LedgerEnvironment) -> None:
    await call(env, ProviderFailed(), report=Usage(7, 30))
    charge = await env.only_charge()
    assert (charge.state, charge.cost_tokens) == ("settled", 37)


async def test_a_count_is_charged_up_to_the_hold(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        reservation.set_usage(Usage(50, 500), Basis.COUNTED)
    charge = await env.only_charge()
    assert (charge.basis, charge.cost_tokens, charge.overrun) == ("counted", 100, False)


async def test_a_report_above_the_hold_is_booked_in_full_and_flagged(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        reservation.set_usage(Usage(50, 5_000))
    assert reservation.closed is not None
    assert reservation.closed.overrun
    assert (await env.only_charge()).cost_tokens == 5_050
    with pytest.raises(QuotaExceeded):
        await env.ledger.reservation(env.caller, make_terms(1, 1)).__aenter__()


@pytest.mark.parametrize("error", [ProviderUnavailable(), ProviderFailed()], ids=repr)
async def test_a_failure_that_cannot_have_been_billed_gives_the_hold_back(
    env: LedgerEnvironment, error: TollkeeperError
) -> None:
    reservation = await call(env, error)
    assert reservation.closed is not None
    assert reservation.closed.basis is Basis.NONE
    charge = await env.only_charge()
    assert (charge.state, charge.cost_tokens, charge.forgiven_tokens) == ("released", 0, 0)


@pytest.mark.parametrize(
    "error", [ProviderTimeout(), ProviderBadResponse(), asyncio.CancelledError(), ZeroDivisionError()], ids=repr
)
async def test_an_unknown_outcome_costs_its_checkpoint(env: LedgerEnvironment, error: BaseException) -> None:
    await call(env, error, checkpoint=(8, 3))
    charge = await env.only_charge()
    assert (charge.basis, charge.cost_tokens, charge.forgiven_tokens) == ("unknown", 11, 89)


async def test_a_block_that_ends_without_a_report_costs_at_least_the_input(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)):
        pass
    charge = await env.only_charge()
    assert (charge.basis, charge.cost_tokens) == ("unknown", 10)


async def test_the_charge_has_the_error_of_the_call(env: LedgerEnvironment) -> None:
    await call(env, ProviderTimeout())
    await call(env, ZeroDivisionError())
    [found] = await env.reader.read("SELECT error FROM charges ORDER BY id")
    assert found == [("provider_timeout",), ("ZeroDivisionError",)]


async def test_an_outage_refuses_after_a_short_wait_and_admits_nothing_later(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    env.store.down = True
    with monkeypatch.context() as impatient:
        impatient.setattr(in_flight, "RESERVE_WAIT_S", 0.03)
        with pytest.raises(LedgerUnavailable):
            await env.ledger.reservation(env.caller, make_terms()).__aenter__()
    available = [env.ledger.available]
    env.store.down = False
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(1, 1))
    available.append(env.ledger.available)
    assert available == [False, True]
    assert (await env.charges()).keys() == {reservation.charge_id}


async def test_an_entry_cancelled_in_the_queue_reserves_nothing(env: LedgerEnvironment) -> None:
    env.store.before_batch.clear()
    first = asyncio.create_task(env.ledger.reservation(env.caller, make_terms()).__aenter__())
    await env.store.started.wait()
    second = asyncio.create_task(env.ledger.reservation(env.caller, make_terms()).__aenter__())
    await asyncio.sleep(0)
    second.cancel()
    env.store.before_batch.set()
    await asyncio.gather(first, second, return_exceptions=True)
    assert (await env.only_charge()).id == first.result().charge_id


async def test_an_entry_cancelled_while_its_reserve_commits_is_released(env: LedgerEnvironment) -> None:
    env.store.after_commit.clear()
    entering = asyncio.create_task(env.ledger.reservation(env.caller, make_terms()).__aenter__())
    await env.store.committed.wait()
    entering.cancel()
    env.store.after_commit.set()
    with pytest.raises(asyncio.CancelledError):
        await entering
    await released(env)


async def test_an_entry_cancelled_before_its_result_is_received_is_released(env: LedgerEnvironment) -> None:
    """`__aexit__` never runs for a block that was not entered."""
    env.store.before_batch.clear()
    entering = asyncio.create_task(env.ledger.reservation(env.caller, make_terms()).__aenter__())
    await env.store.started.wait()
    env.store.on_commit = lambda: asyncio.get_running_loop().call_soon(entering.cancel)
    env.store.before_batch.set()
    with pytest.raises(asyncio.CancelledError):
        await entering
    env.store.on_commit = lambda: None
    await released(env)


async def released(env: LedgerEnvironment) -> None:
    while env.store.runs < 2:
        await asyncio.sleep(0.001)
    await env.idle()
    charge = await env.only_charge()
    assert (charge.state, charge.cost_tokens) == ("released", 0)
    assert env.ledger.in_flight == 0


async def test_a_call_cancelled_while_it_settles_is_settled(env: LedgerEnvironment) -> None:
    async def call() -> None:
        async with env.ledger.reservation(env.caller, make_terms()) as reservation:
            reservation.set_usage(Usage(7, 30))
            env.store.started.clear()
            env.store.before_batch.clear()

    calling = asyncio.create_task(call())
    while env.store.before_batch.is_set():
        await asyncio.sleep(0)
    await env.store.started.wait()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert calling.cancelled()
    assert env.ledger.in_flight == 1, "it is still this process's"
    env.store.before_batch.set()
    while env.ledger.in_flight:
        await asyncio.sleep(0.001)
    assert (await env.only_charge()).cost_tokens == 37


async def test_a_caller_does_not_wait_for_an_outage_to_end(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The computed cost is returned, and is booked after the outage."""
    monkeypatch.setattr(in_flight, "SETTLE_WAIT_S", 0.03)
    one, two = (env.ledger.reservation(env.caller, make_terms()) for _ in range(2))
    await one.__aenter__()
    await two.__aenter__()
    env.store.down = True
    one.set_usage(Usage(7, 30))
    await one.__aexit__(None, None, None)
    await two.__aexit__(ProviderUnavailable, ProviderUnavailable(), None)
    assert one.closed is not None
    assert two.closed is not None
    assert (one.closed.cost_tokens, one.closed.basis, one.closed.balances) == (37, Basis.PROVIDER, ())
    assert (two.closed.cost_tokens, two.closed.basis, two.closed.balances) == (0, Basis.NONE, ())
    assert env.ledger.in_flight == 2, "their leases are renewed until they have landed"
    env.store.down = False
    await env.idle()
    assert env.ledger.in_flight == 0
    charges = await env.charges()
    assert [charges[call.charge_id].cost_tokens for call in (one, two)] == [37, 0]


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_failed_or_lost_commit_only_delays_the_caller(env: LedgerEnvironment, fault: Fault) -> None:
    env.store.faults.append(fault)
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(7, 30))
        env.store.faults.append(fault)
    assert reservation.closed is not None
    assert reservation.closed.cost_tokens == 37
    assert (await env.window()).settled == 37
