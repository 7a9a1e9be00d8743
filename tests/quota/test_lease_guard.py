"""The guard of the leases: it renews them while the event loop is stalled, but not for ever."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.deadlines import TEST_DEADLINE_S
from support.factories import make_store, make_terms
from tollkeeper.chat import Usage
from tollkeeper.quota import lease_guard
from tollkeeper.quota.lease_guard import LeaseGuard
from tollkeeper.quota.stores.base import Store

LEASE_S = 0.6


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(database_url) as made, asyncio.timeout(TEST_DEADLINE_S):
        made.ledger._calls.lease_ms = int(LEASE_S * 1000)
        yield made


def make_guard(env: LedgerEnvironment, database_url: str, *, max_stall_s: float) -> LeaseGuard:
    return env.ledger.lease_guard(lambda: make_store(database_url, env.clock), max_stall_s=max_stall_s)


async def test_a_stalled_event_loop_keeps_its_leases(env: LedgerEnvironment, database_url: str) -> None:
    guard = make_guard(env, database_url, max_stall_s=TEST_DEADLINE_S)
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        before = (await env.only_charge()).lease_ms
        env.clock.step(5)
        guard.start()
        time.sleep(3 * LEASE_S)
        assert (await env.only_charge()).lease_ms == before + 5_000
        await guard.stop()
        reservation.set_usage(Usage(1, 1))
    assert reservation.closed_charge.cost_tokens == 2


class OpenedStores:
    """Makes stores for a guard, and counts them: a guard that does nothing opens none."""

    def __init__(self, env: LedgerEnvironment, database_url: str) -> None:
        self._env, self._database_url = env, database_url
        self.count = 0

    def __call__(self) -> Store:
        self.count += 1
        return make_store(self._database_url, self._env.clock)


async def test_while_the_event_loop_renews_the_guard_does_nothing(
    env: LedgerEnvironment, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = OpenedStores(env, database_url)
    env.ledger._calls.lease_ms = int(20 * LEASE_S * 1000)  # a renewal that a busy machine delays is not late
    monkeypatch.setattr(lease_guard, "CHECKS_PER_LEASE", 100)
    guard = env.ledger.lease_guard(opened, max_stall_s=TEST_DEADLINE_S)
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        guard.start()
        for _ in range(10):
            await env.ledger.renew()
            await asyncio.sleep(LEASE_S / 10)
        reservation.set_usage(Usage(1, 1))
    await guard.stop()
    assert opened.count == 0


async def test_without_calls_in_flight_the_guard_does_nothing(env: LedgerEnvironment, database_url: str) -> None:
    opened = OpenedStores(env, database_url)
    guard = env.ledger.lease_guard(opened, max_stall_s=TEST_DEADLINE_S)
    guard.start()
    await asyncio.sleep(2 * LEASE_S)
    await guard.stop()
    assert opened.count == 0


async def test_a_process_that_hangs_for_longer_than_any_call_loses_its_leases(
    env: LedgerEnvironment, database_url: str
) -> None:
    guard = make_guard(env, database_url, max_stall_s=LEASE_S / 10)
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        before = (await env.only_charge()).lease_ms
        env.clock.step(5)
        guard.start()
        time.sleep(2 * LEASE_S)
        assert (await env.only_charge()).lease_ms == before
        await guard.stop()
        reservation.set_usage(Usage(1, 1))


async def test_a_call_that_the_guard_finds_closed_is_notified(env: LedgerEnvironment, database_url: str) -> None:
    guard = make_guard(env, database_url, max_stall_s=TEST_DEADLINE_S)
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        lost = asyncio.Event()
        reservation.on_lost = lost.set
        env.clock.step(120)
        calls, env.ledger._calls._calls = env.ledger._calls._calls, {}
        assert await env.ledger.sweep() == 1
        env.ledger._calls._calls = calls
        guard.start()
        await lost.wait()
        await guard.stop()
        reservation.set_usage(Usage(1, 1))
    assert (await env.only_charge()).adjusted


async def test_a_database_that_is_down_does_not_end_the_guard(env: LedgerEnvironment, database_url: str) -> None:
    failures = iter([OSError(), OSError()])

    def make() -> Store:
        if (failure := next(failures, None)) is not None:
            raise failure
        return make_store(database_url, env.clock)

    guard = env.ledger.lease_guard(make, max_stall_s=TEST_DEADLINE_S)
    async with env.ledger.reservation(env.caller, make_terms()) as reservation:
        before = (await env.only_charge()).lease_ms
        env.clock.step(5)
        guard.start()
        while (await env.only_charge()).lease_ms == before:
            await asyncio.sleep(0.05)
        await guard.stop()
        reservation.set_usage(Usage(1, 1))
