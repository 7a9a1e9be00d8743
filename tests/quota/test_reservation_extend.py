"""Further attempts of a call: each is a charge, and reserves with the released quota of the failed attempt."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from faulty_store import Fault
from ledger_environment import LEASE_S, LedgerEnvironment, open_ledger_environment

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
async def env(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LedgerEnvironment]:
    monkeypatch.setattr(journal_module, "OUTAGE_PAUSE_S", 0.005)
    monkeypatch.setattr(journal_module, "DEADLINE_CHECK_S", 0.005)
    async with open_ledger_environment(database_url) as made:
        yield made


async def ends(env: LedgerEnvironment) -> list[tuple[str, str | None, int]]:
    """How each charge stands; those released first."""
    charges = sorted((await env.charges()).values(), key=lambda charge: charge.state)
    return [(charge.state, charge.basis, charge.cost_tokens) for charge in charges]


async def test_each_further_attempt_is_listed_behind_the_one_before_even_within_a_millisecond(
    env: LedgerEnvironment,
) -> None:
    ids = []
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
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


async def test_each_attempt_is_a_charge_of_its_own_and_only_the_last_is_paid(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        first = reservation.charge_id
        runs = env.store.runs
        await reservation.extend(make_terms(20, 180), "provider_unavailable")
        assert env.store.runs == runs + 1, "one commit for both"
        assert reservation.charge_id != first
        assert (reservation.granted_output, reservation.checkpoint) == (180, (20, 0))
        assert reservation.terms == make_terms(20, 180)
        [balance] = reservation.hold.balances
        assert (balance.used, balance.reserved) == (0, 200)
        assert env.ledger.in_flight == 1
        reservation.set_usage(Usage(7, 30))
    assert reservation.closed is not None
    assert (reservation.closed.charge_id, reservation.closed.cost_tokens) == (reservation.charge_id, 37)
    assert await ends(env) == [("released", "none", 0), ("settled", "provider", 37)]
    [found] = await env.reader.read("SELECT error FROM charges ORDER BY state")
    assert found == [("provider_unavailable",), (None,)]
    assert env.ledger.in_flight == 0


async def test_the_next_attempt_can_use_the_quota_of_the_failed_one(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 990)) as reservation:
        await reservation.extend(make_terms(10, 5_000, least=16), "provider_error")
        assert reservation.granted_output == 990
        await reservation.extend(make_terms(10, 40), "provider_error")
        assert (await env.window()).pending == 50, "a smaller hold gives the rest back"
        reservation.set_usage(Usage(1, 1))
    assert [state for state, _, _ in await ends(env)] == ["released", "released", "settled"]


async def test_a_refused_extend_still_releases_the_failed_attempt(env: LedgerEnvironment) -> None:
    reservation = env.ledger.reservation(env.caller, make_terms(10, 90))
    with pytest.raises(QuotaExceeded):
        await try_to_extend(reservation, make_terms(10, 2_000))
    assert reservation.closed is not None
    assert (reservation.closed.basis, reservation.closed.cost_tokens) == (Basis.NONE, 0)
    assert await ends(env) == [("released", "none", 0)]
    assert env.ledger.in_flight == 0


async def test_calls_in_flight_count_against_a_further_attempt(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(0, 500)) as other:
        with pytest.raises(QuotaHeld):
            await try_to_extend(env.ledger.reservation(env.caller, make_terms(0, 90)), make_terms(0, 501))
        other.set_usage(Usage(1, 1))
    assert (await env.window()).settled == 2


async def test_a_caller_whose_token_was_revoked_gets_no_further_attempt(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        await env.reader.execute("UPDATE users SET token_version = 1")
        with pytest.raises(Unauthenticated):
            await reservation.extend(make_terms(), "provider_error")
    assert await ends(env) == [("released", "none", 0)]


async def test_after_a_refusal_a_smaller_attempt_may_follow(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        with pytest.raises(QuotaExceeded):
            await reservation.extend(make_terms(10, 2_000), "provider_error")
        assert env.ledger.in_flight == 0
        await reservation.extend(make_terms(10, 20), "quota_exceeded")
        reservation.set_usage(Usage(1, 1))
    assert await ends(env) == [("released", "none", 0), ("settled", "provider", 2)]


async def test_a_last_attempt_that_cannot_have_been_billed_costs_nothing(env: LedgerEnvironment) -> None:
    reservation = env.ledger.reservation(env.caller, make_terms())
    with pytest.raises(ProviderUnavailable):
        await try_to_extend(reservation, make_terms(), ProviderUnavailable())
    assert await ends(env) == [("released", "none", 0)] * 2


async def test_an_attempt_with_an_unknown_outcome_costs_its_own_checkpoint(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(50, 90)) as reservation:
        await reservation.extend(make_terms(10, 90), "provider_error")
        reservation.checkpoint = (8, 3)
    assert await ends(env) == [("released", "none", 0), ("settled", "unknown", 11)]


async def test_the_usage_of_the_failed_attempt_is_not_charged_to_the_next(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        reservation.set_usage(Usage(5, 5))
        await reservation.extend(make_terms(20, 90), "provider_error")
    assert await ends(env) == [("released", "none", 0), ("settled", "unknown", 20)]


async def test_an_expired_attempt_is_adjusted_and_the_next_one_reserved(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms(10, 90)) as reservation:
        await sweep_elsewhere(env)
        assert (await env.window()).settled == 10
        await reservation.extend(make_terms(10, 90), "provider_error")
        window = await env.window()
        assert (window.settled, window.pending) == (0, 100)
        reservation.set_usage(Usage(7, 30))
    assert (await env.window()).settled == 37


async def sweep_elsewhere(env: LedgerEnvironment) -> None:
    env.clock.step(LEASE_S + 1)
    other = Ledger(env.store, lease_seconds=LEASE_S)
    other.start()
    assert await other.sweep() == 1
    await other._journal.stop()


async def test_a_concurrent_renewal_does_not_mark_an_extended_call_as_lost(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        env.store.before_batch.clear()
        env.store.started.clear()
        extending = asyncio.create_task(reservation.extend(make_terms(), "provider_error"))
        await env.store.started.wait()
        renewing = asyncio.create_task(env.ledger.renew())
        await asyncio.sleep(0)
        env.store.before_batch.set()
        await asyncio.gather(extending, renewing)
        assert not reservation.is_lost
        reservation.set_usage(Usage(1, 1))


@pytest.mark.parametrize("fault", list(Fault))
async def test_an_extend_happens_once_despite_a_failed_commit(env: LedgerEnvironment, fault: Fault) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        env.store.faults.append(fault)
        await reservation.extend(make_terms(), "provider_error")
        assert (await env.window()).pending == 100
        reservation.set_usage(Usage(7, 30))
    assert await ends(env) == [("released", "none", 0), ("settled", "provider", 37)]


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_refused_extend_stays_refused_despite_a_failed_commit(env: LedgerEnvironment, fault: Fault) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        env.store.faults.append(fault)
        with pytest.raises(QuotaExceeded):
            await reservation.extend(make_terms(10, 2_000), "provider_error")
    assert await ends(env) == [("released", "none", 0)]


async def nothing_is_held(env: LedgerEnvironment) -> None:
    await env.idle()
    assert {state for state, _, _ in await ends(env)} == {"released"}
    assert (await env.window()).pending == 0
    assert env.ledger.in_flight == 0


async def test_an_extend_cancelled_in_the_queue_leaves_no_hold(env: LedgerEnvironment) -> None:
    reservation = env.ledger.reservation(env.caller, make_terms())
    calling = asyncio.create_task(try_to_extend(reservation, make_terms()))
    while env.ledger.in_flight == 0:
        await asyncio.sleep(0)
    env.store.before_batch.clear()
    while not env.ledger._journal._queue:
        await asyncio.sleep(0)
    calling.cancel()
    env.store.before_batch.set()
    await asyncio.gather(calling, return_exceptions=True)
    await nothing_is_held(env)


async def test_an_extend_cancelled_in_its_commit_leaves_no_hold(env: LedgerEnvironment) -> None:
    reservation = env.ledger.reservation(env.caller, make_terms())
    calling = asyncio.create_task(try_to_extend(reservation, make_terms()))
    while env.store.runs < 1 or env.ledger.in_flight == 0:
        await asyncio.sleep(0)
    env.store.after_commit.clear()
    env.store.committed.clear()
    await env.store.committed.wait()
    calling.cancel()
    env.store.after_commit.set()
    await asyncio.gather(calling, return_exceptions=True)
    await nothing_is_held(env)
    assert len(await env.charges()) == 2


async def test_an_extend_cancelled_before_its_result_is_received_leaves_no_hold(env: LedgerEnvironment) -> None:
    reservation = await env.ledger.reservation(env.caller, make_terms()).__aenter__()
    extending = asyncio.create_task(reservation.extend(make_terms(), "provider_error"))
    env.store.on_commit = lambda: asyncio.get_running_loop().call_soon(extending.cancel)
    with pytest.raises(asyncio.CancelledError):
        await extending
    env.store.on_commit = lambda: None
    await reservation.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)
    await nothing_is_held(env)


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.NEVER_COMMITTED])
async def test_an_extend_cancelled_after_a_lost_commit_leaves_no_hold(env: LedgerEnvironment, fault: Fault) -> None:
    reservation = await env.ledger.reservation(env.caller, make_terms()).__aenter__()
    env.store.faults.extend([fault, Fault.REFUSED])
    env.store.before_batch.clear()
    env.store.started.clear()
    extending = asyncio.create_task(reservation.extend(make_terms(), "provider_error"))
    await env.store.started.wait()
    extending.cancel()
    env.store.before_batch.set()
    await asyncio.gather(extending, return_exceptions=True)
    await reservation.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)
    await nothing_is_held(env)


async def test_an_outage_refuses_an_extend_after_a_short_wait_and_leaves_no_hold(
    env: LedgerEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservation = await env.ledger.reservation(env.caller, make_terms()).__aenter__()
    monkeypatch.setattr(in_flight, "RESERVE_WAIT_S", 0.03)
    monkeypatch.setattr(in_flight, "SETTLE_WAIT_S", 0.03)
    env.store.down = True
    with pytest.raises(LedgerUnavailable):
        await reservation.extend(make_terms(), "provider_error")
    await reservation.__aexit__(LedgerUnavailable, LedgerUnavailable(), None)
    assert env.ledger.in_flight == 1, "the attempt that failed is this process's until its release has landed"
    env.store.down = False
    await nothing_is_held(env)


async def test_the_error_of_an_attempt_is_truncated_to_the_column(env: LedgerEnvironment) -> None:
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        await reservation.extend(make_terms(), "x" * 500)
        reservation.set_usage(Usage(1, 1))
    [found] = await env.reader.read("SELECT error FROM charges ORDER BY state")
    assert found == [("x" * 40,), (None,)]


async def test_another_process_can_expire_an_extended_call(env: LedgerEnvironment, database_url: str) -> None:
    """What is remembered of the attempt before does not outlive it."""
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        await reservation.extend(make_terms(), "provider_error")
        other = Ledger(make_store(database_url, env.clock), lease_seconds=LEASE_S)
        other.start()
        env.clock.step(LEASE_S + 1)
        assert await other.sweep() == 1
        await other.stop()
        reservation.set_usage(Usage(10, 50))
    assert await ends(env) == [("released", "none", 0), ("settled", "provider", 60)]
