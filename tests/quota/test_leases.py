"""Leases: live calls are renewed, lost ones expire, late usage is adjusted; also refunds, and stopping."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from ledger_environment import LEASE_S, LedgerEnvironment, open_ledger_environment

from support.deadlines import TEST_DEADLINE_S
from support.factories import make_terms, set_limit, user_quota
from tollkeeper.chat import Usage
from tollkeeper.errors import LedgerConflict, LedgerUnavailable
from tollkeeper.quota import in_flight
from tollkeeper.quota import journal as journal_module
from tollkeeper.quota import ledger as ledger_module
from tollkeeper.quota import reservation as reservation_module
from tollkeeper.quota.ledger import Ledger, Swept

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
async def env(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LedgerEnvironment]:
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    async with open_ledger_environment(database_url) as made:
        yield made


async def sweep_elsewhere(env: LedgerEnvironment) -> int:
    """Sweep in another process."""
    other = Ledger(env.store, lease_seconds=LEASE_S)
    other.start()
    swept = await other.sweep()
    await other._journal.stop()
    return swept


async def test_a_renewal_moves_the_lease_and_the_checkpoint_of_every_call_in_flight(env: LedgerEnvironment) -> None:
    one, two = (env.ledger.reservation(env.caller, make_terms()) for _ in range(2))
    async with one, two:
        two.checkpoint = (10, 44)
        env.clock.step(20)
        env.store.runs = 0
        await env.ledger.renew()
        assert env.store.runs == 1
        charges = await env.charges()
        until = env.clock.ms + LEASE_S * 1000
        assert [charges[call.charge_id].lease_ms for call in (one, two)] == [until, until]
        assert charges[two.charge_id].checkpoint_output == 44
        assert 0 <= env.ledger.oldest_hold_s < TEST_DEADLINE_S


async def test_a_renewal_without_calls_in_flight_runs_no_batch(env: LedgerEnvironment) -> None:
    await env.ledger.renew()
    assert env.store.runs == 0
    assert env.ledger.oldest_hold_s == 0


async def test_the_settle_of_an_expired_call_is_an_adjustment(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        env.clock.step(LEASE_S + 1)
        assert await sweep_elsewhere(env) == 1
        await env.ledger.renew()
        window = await env.window()
        assert (window.settled, window.forgiven, window.pending) == (10, 90, 0)
        reservation.set_usage(Usage(10, 50))
    window = await env.window()
    assert (window.settled, window.forgiven, window.pending) == (60, 0, 0)
    charge = await env.only_charge()
    assert (charge.adjusted, charge.overrun, charge.basis) == (True, False, "provider")


async def test_the_first_renewal_writes_measured_checkpoints(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservation_module, "UNMEASURED_LEASE_SHARE", 0)

    async def fail() -> tuple[int, int]:
        raise ZeroDivisionError

    async def measure() -> tuple[int, int]:
        return 10, 44

    one, two = (env.ledger.reservation(env.caller, make_terms()) for _ in range(2))
    async with one, two:
        one.measure, two.measure = fail, measure
        await env.ledger.renew()
        charges = await env.charges()
        assert [charges[call.charge_id].checkpoint_output for call in (one, two)] == [0, 44]


async def test_a_call_that_has_only_begun_is_not_measured(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    async def measure() -> tuple[int, int]:
        measured.append(reservation.charge_id)
        return 7, 0

    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.measure = measure
        await env.ledger.renew()
        await env.ledger.renew()
        assert measured == []
        monkeypatch.setattr(reservation_module, "UNMEASURED_LEASE_SHARE", 0)
        await reservation.extend(make_terms(5, 90), "provider_error")
        await env.ledger.renew()
        assert measured == [reservation.charge_id]


async def test_a_call_that_takes_too_long_to_measure_is_still_renewed(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_flight, "CHECKPOINT_LEASE_SHARE", 0.0005)
    monkeypatch.setattr(reservation_module, "UNMEASURED_LEASE_SHARE", 0)

    async def measure() -> tuple[int, int]:
        await asyncio.Event().wait()
        raise AssertionError

    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.measure = measure
        await env.ledger.renew()
        env.clock.step(20)
        await env.ledger.renew()
        charge = await env.only_charge()
        assert (charge.lease_ms, charge.checkpoint_input) == (env.clock.ms + LEASE_S * 1000, 10)


async def test_the_checkpoint_of_a_failed_attempt_is_not_used_for_the_next(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservation_module, "UNMEASURED_LEASE_SHARE", 0)
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:

        async def measure() -> tuple[int, int]:
            await reservation.extend(make_terms(5, 90), "provider_error")
            return 10, 44

        reservation.measure = measure
        await reservation.update_checkpoint()
        assert reservation.checkpoint == (5, 0)


async def test_a_call_whose_lease_was_lost_is_notified_once_and_continues(env: LedgerEnvironment) -> None:
    notified = []
    silent = env.ledger.reservation(env.caller, make_terms(10, 90))
    async with silent, env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        reservation.on_lost = lambda: notified.append(True)
        await env.ledger.renew()
        assert not reservation.is_lost
        env.clock.step(LEASE_S + 1)
        assert await sweep_elsewhere(env) == 2
        await env.ledger.renew()
        await env.ledger.renew()
        assert (reservation.is_lost, silent.is_lost, notified) == (True, True, [True])
        for call in (reservation, silent):
            call.set_usage(Usage(10, 50))
    assert (await env.window()).settled == 120


async def test_a_failing_notification_does_not_affect_other_calls(env: LedgerEnvironment) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    one, two = (env.ledger.reservation(env.caller, make_terms(1, 1)) for _ in range(2))
    async with one, two:
        one.on_lost = two.on_lost = fail
        env.clock.step(LEASE_S + 1)
        assert await sweep_elsewhere(env) == 2
        await env.ledger.renew()
        assert one.is_lost
        assert two.is_lost


async def test_a_process_never_expires_its_own_calls(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        env.clock.step(LEASE_S * 10)
        assert await env.ledger.sweep() == 0
        reservation.set_usage(Usage(1, 1))
    charge = await env.only_charge()
    assert (charge.closed_by, charge.adjusted) == ("settle", False)


async def test_one_sweep_ends_every_call_of_a_process_that_was_lost(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "SWEEP_BATCH", 10)
    lost = Ledger(env.store, lease_seconds=LEASE_S)
    lost.start()
    await asyncio.gather(*(lost.reservation(env.caller, make_terms(1, 1)).__aenter__() for _ in range(35)))
    await lost._journal.stop()
    env.clock.step(LEASE_S + 1)
    assert await env.ledger.sweep() == 35
    assert env.ledger.swept == Swept(charges=35, forgiven_tokens=35)
    assert (await env.window()).pending == 0
    assert await env.ledger.sweep() == 0


async def test_a_refund_is_given_once(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        reservation.set_usage(Usage(7, 30))
    assert (
        await env.ledger.refund(reservation.charge_id, env.caller.tenant_id, actor="operator", reason="goodwill") == 37
    )
    with pytest.raises(LedgerConflict):
        await env.ledger.refund(reservation.charge_id, env.caller.tenant_id, actor="operator", reason="goodwill")
    window = await env.window()
    assert (window.settled, window.pending) == (0, 0)


async def test_an_administrative_operation_waits_for_a_limited_time(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "ADMINISTER_WAIT_S", 0.03)
    env.store.down = True
    with pytest.raises(LedgerUnavailable):
        await set_limit(env.ledger, user_quota(env.caller), 5)
    env.store.down = False
    await env.idle()
    assert (await env.window()).granted == 1_000


async def test_stopping_waits_for_queued_operations(env: LedgerEnvironment) -> None:
    reservation = await env.ledger.reservation(env.caller, make_terms()).__aenter__()
    reservation.set_usage(Usage(7, 30))
    env.store.before_batch.clear()
    leaving = asyncio.create_task(reservation.__aexit__(None, None, None))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(env.stop())
    await asyncio.sleep(0)
    env.store.before_batch.set()
    await asyncio.gather(leaving, stopping)
    assert (await env.only_charge()).cost_tokens == 37


async def test_stopping_waits_for_a_limited_time(env: LedgerEnvironment) -> None:
    """What has not landed by then is the next sweep's: the lease is over, and the checkpoint is booked."""
    reservation = await env.ledger.reservation(env.caller, make_terms()).__aenter__()
    env.store.down = True
    leaving = asyncio.create_task(reservation.__aexit__(None, None, None))
    await asyncio.sleep(0)
    await env.stop(drain_seconds=0.02)
    leaving.cancel()
    assert (await env.only_charge()).state == "dispatched"
