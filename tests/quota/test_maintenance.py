"""Maintenance renews and sweeps in time, survives every error, and waits one lease after an outage before it sweeps."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment
from starlette.testclient import TestClient

from support.deadlines import TEST_DEADLINE_S
from support.factories import FakeClock, make_store, make_terms
from tollkeeper.bootstrap import application
from tollkeeper.chat import Usage
from tollkeeper.quota import maintenance as maintenance_module
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.maintenance import Maintenance
from tollkeeper.quota.stores.base import StoreFailed
from tollkeeper.settings import Settings

LEASE_S = 60.0


class RecordingLedger(Ledger):
    """Counts its calls, and raises `error` if there is one."""

    def __init__(self) -> None:
        super().__init__(make_store("sqlite:///unused", FakeClock()), lease_seconds=LEASE_S)
        self.up = True
        self.error: Exception | None = None
        self.renewals = 0
        self.key_deletions = 0
        self.free_charge_ages: list[int] = []
        self.sweeps = 0
        self.during_a_sweep: Callable[[], object] = lambda: None

    @property
    def available(self) -> bool:
        return self.up

    async def renew(self) -> None:
        self.renewals += 1
        if self.error is not None:
            raise self.error

    async def delete_old_keys(self) -> int:
        self.key_deletions += 1
        if self.error is not None:
            raise self.error
        return 0

    async def delete_free_charges(self, min_age_ms: int) -> int:
        self.free_charge_ages.append(min_age_ms)
        if self.error is not None:
            raise self.error
        return 0

    async def sweep(self) -> int:
        self.sweeps += 1
        self.during_a_sweep()
        if self.error is not None:
            raise self.error
        return 0


class SystemClockStub:
    """The system clock that the maintenance reads."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.reads = 0

    def time(self) -> float:
        self.reads += 1
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def rounds(self, ledger: RecordingLedger) -> int:
        """Let the sweeping task run a few rounds. Returns how often it swept."""
        reads, sweeps = self.reads, ledger.sweeps
        while self.reads < reads + 8:
            await asyncio.sleep(0)
        return ledger.sweeps - sweeps


@pytest.fixture
def system_clock(monkeypatch: pytest.MonkeyPatch) -> SystemClockStub:
    made = SystemClockStub()
    monkeypatch.setattr(maintenance_module, "time", made)
    return made


@pytest.fixture
def ledger() -> RecordingLedger:
    return RecordingLedger()


@pytest.fixture
async def maintenance(ledger: RecordingLedger, system_clock: SystemClockStub) -> AsyncIterator[Maintenance]:
    made = Maintenance(ledger, lease_seconds=LEASE_S, sweep_seconds=0)
    made.start()
    yield made
    await made.stop()


async def test_it_sweeps_at_once_and_repeatedly(
    maintenance: Maintenance, ledger: RecordingLedger, system_clock: SystemClockStub
) -> None:
    assert await system_clock.rounds(ledger) >= 2


async def test_after_an_outage_it_waits_one_lease(
    maintenance: Maintenance, ledger: RecordingLedger, system_clock: SystemClockStub
) -> None:
    ledger.up = False
    await system_clock.rounds(ledger)
    assert await system_clock.rounds(ledger) == 0
    ledger.up = True
    for _ in range(3):
        system_clock.now += LEASE_S / 3 - 0.1
        assert await system_clock.rounds(ledger) == 0
    system_clock.now += 1
    assert await system_clock.rounds(ledger) > 0


@pytest.mark.parametrize("leap", [LEASE_S, -LEASE_S], ids=["forward", "back"])
async def test_after_a_jump_of_the_clock_it_waits_one_lease(
    maintenance: Maintenance, ledger: RecordingLedger, system_clock: SystemClockStub, leap: float
) -> None:
    """As after a suspended machine: the other processes were suspended too."""
    await system_clock.rounds(ledger)
    system_clock.now += leap
    await system_clock.rounds(ledger)
    assert await system_clock.rounds(ledger) == 0
    for _ in range(3):
        system_clock.now += LEASE_S / 3 + 0.1
        await system_clock.rounds(ledger)
    assert await system_clock.rounds(ledger) > 0


async def test_a_sweep_that_spans_an_outage_is_followed_by_one_lease(
    maintenance: Maintenance, ledger: RecordingLedger, system_clock: SystemClockStub
) -> None:
    def suspend() -> None:
        system_clock.now += 10 * LEASE_S
        ledger.during_a_sweep = lambda: None

    ledger.during_a_sweep = suspend
    assert await system_clock.rounds(ledger) == 1
    assert await system_clock.rounds(ledger) == 0


async def test_after_a_failed_sweep_it_waits_one_lease(
    maintenance: Maintenance, ledger: RecordingLedger, system_clock: SystemClockStub
) -> None:
    await system_clock.rounds(ledger)
    ledger.error = StoreFailed("out of order", maybe_committed=False)
    await system_clock.rounds(ledger)
    ledger.error = None
    assert await system_clock.rounds(ledger) == 0


async def test_an_unexpected_error_does_not_end_the_sweep_task(
    maintenance: Maintenance, ledger: RecordingLedger, system_clock: SystemClockStub
) -> None:
    ledger.error = ZeroDivisionError()
    assert await system_clock.rounds(ledger) >= 2


async def test_an_unexpected_error_does_not_end_the_renewal_task(ledger: RecordingLedger) -> None:
    maintenance = Maintenance(ledger, lease_seconds=0.003, sweep_seconds=1)
    ledger.error = ZeroDivisionError()
    maintenance.start()
    async with asyncio.timeout(TEST_DEADLINE_S):
        while ledger.renewals < 3:
            await asyncio.sleep(0.001)
    await maintenance.stop()


@pytest.mark.parametrize(
    "error", [None, StoreFailed("out of order", maybe_committed=False), ZeroDivisionError()], ids=repr
)
async def test_it_deletes_old_keys_and_free_charges_repeatedly_despite_errors(
    ledger: RecordingLedger, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    monkeypatch.setattr(maintenance_module, "DELETION_INTERVAL_S", 0.003)
    maintenance = Maintenance(ledger, lease_seconds=LEASE_S, sweep_seconds=LEASE_S, free_charges_days=2)
    ledger.error = error
    maintenance.start()
    async with asyncio.timeout(TEST_DEADLINE_S):
        while ledger.key_deletions < 3 or len(ledger.free_charge_ages) < 3:
            await asyncio.sleep(0.001)
    await maintenance.stop()
    assert set(ledger.free_charge_ages) == {2 * 86_400_000}


def test_the_server_keeps_free_charges_for_as_long_as_its_setting_says(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Composed(Exception):
        pass

    def compose(_ledger: Ledger, *, free_charges_days: int, **_: object) -> Maintenance:
        raise Composed(free_charges_days)

    monkeypatch.setattr(application, "Maintenance", compose)
    settings = Settings(database_url=sqlite_url, free_charges_days=7)
    with pytest.raises(Composed, match=r"^7$"), TestClient(application.make_app(settings)):
        pass


async def test_it_keeps_free_charges_that_somebody_still_needs(
    ledger: RecordingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_module, "DELETION_INTERVAL_S", 0.003)
    asked: list[int] = []

    async def may_delete_until(at_ms: int) -> bool:
        asked.append(at_ms)
        return len(asked) > 3

    maintenance = Maintenance(
        ledger,
        lease_seconds=LEASE_S,
        sweep_seconds=LEASE_S,
        free_charges_days=2,
        may_delete_until=may_delete_until,
    )
    before_ms = time.time() * 1000
    maintenance.start()
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not ledger.free_charge_ages:
            await asyncio.sleep(0.001)
    await maintenance.stop()
    assert len(asked) >= 4
    assert abs(asked[0] - (before_ms - 2 * 86_400_000)) < 600_000


async def test_it_keeps_free_charges_for_ever_if_their_time_is_zero(
    ledger: RecordingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_module, "DELETION_INTERVAL_S", 0.003)
    maintenance = Maintenance(ledger, lease_seconds=LEASE_S, sweep_seconds=LEASE_S, free_charges_days=0)
    maintenance.start()
    async with asyncio.timeout(TEST_DEADLINE_S):
        while ledger.key_deletions < 3:
            await asyncio.sleep(0.001)
    await maintenance.stop()
    assert ledger.free_charge_ages == []


async def test_it_renews_calls_in_flight_and_expires_lost_ones(sqlite_url: str) -> None:
    """With the real ledger, two processes, and no requests."""
    async with open_ledger_environment(sqlite_url) as env:
        lost = await lose_a_call(env)
        maintenance = Maintenance(env.ledger, lease_seconds=0.03, sweep_seconds=0.01)
        async with env.ledger.reservation(env.caller, make_terms()) as reservation:
            before = (await env.charges())[reservation.charge_id].lease_ms
            env.clock.step(61)
            maintenance.start()
            async with asyncio.timeout(TEST_DEADLINE_S):
                charges = await env.charges()
                while charges[lost].closed_by is None or charges[reservation.charge_id].lease_ms == before:
                    await asyncio.sleep(0.01)
                    charges = await env.charges()
            await maintenance.stop()
            assert charges[lost].closed_by == "expire"
            assert charges[reservation.charge_id].state == "dispatched"
            reservation.set_usage(Usage(1, 1))


async def lose_a_call(env: LedgerEnvironment) -> str:
    other = Ledger(env.store, lease_seconds=LEASE_S)
    other.start()
    reservation = await other.reservation(env.caller, make_terms()).__aenter__()
    await other._journal.stop()
    return reservation.charge_id


async def test_a_sweep_is_late_when_its_outage_explains_the_wait_no_longer(
    maintenance: Maintenance, ledger: RecordingLedger, system_clock: SystemClockStub
) -> None:
    lateness = []
    for ledger.error in (None, StoreFailed("disk I/O error", maybe_committed=False), None):
        for _ in range(12):  # a larger step is a jump of the clock
            system_clock.now += LEASE_S / 4
            await system_clock.rounds(ledger)
        lateness.append(maintenance.sweep_is_late)
    assert lateness == [False, True, False]
