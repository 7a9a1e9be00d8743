"""The keeper: it renews and sweeps in time, outlives whatever goes wrong, and gives others a lease after an outage."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from books import Books, open_books

from support.deadlines import TEST_DEADLINE_S
from support.factories import FakeClock, make_store, make_terms
from tollkeeper.chat import Usage
from tollkeeper.quota import maintenance as keeper_module
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.maintenance import Maintenance
from tollkeeper.quota.stores.base import StoreFailed

LEASE_S = 60.0


class RecordingLedger(Ledger):
    """Says what it was asked, and fails when told to."""

    def __init__(self) -> None:
        super().__init__(make_store("sqlite:///unused", FakeClock()), lease_seconds=LEASE_S)
        self.up = True
        self.error: Exception | None = None
        self.renewals = 0
        self.tidied = 0
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
        self.tidied += 1
        if self.error is not None:
            raise self.error
        return 0

    async def sweep(self) -> int:
        self.sweeps += 1
        self.during_a_sweep()
        if self.error is not None:
            raise self.error
        return 0


class Wall:
    """The clock on the wall, as the keeper reads it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.looks = 0

    def time(self) -> float:
        self.looks += 1
        return self.now

    async def rounds(self, ledger: RecordingLedger) -> int:
        """Let the sweeper go around a few times. Returns how often it swept."""
        looks, sweeps = self.looks, ledger.sweeps
        while self.looks < looks + 8:
            await asyncio.sleep(0)
        return ledger.sweeps - sweeps


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    made = Wall()
    monkeypatch.setattr(keeper_module, "time", made)
    return made


@pytest.fixture
def ledger() -> RecordingLedger:
    return RecordingLedger()


@pytest.fixture
async def keeper(ledger: RecordingLedger, wall: Wall) -> AsyncIterator[Maintenance]:
    made = Maintenance(ledger, lease_seconds=LEASE_S, sweep_seconds=0)
    made.start()
    yield made
    await made.stop()


async def test_it_sweeps_at_once_and_again(keeper: Maintenance, ledger: RecordingLedger, wall: Wall) -> None:
    assert await wall.rounds(ledger) >= 2


async def test_after_an_outage_it_waits_one_lease(keeper: Maintenance, ledger: RecordingLedger, wall: Wall) -> None:
    ledger.up = False
    await wall.rounds(ledger)
    assert await wall.rounds(ledger) == 0
    ledger.up = True
    for _ in range(3):
        wall.now += LEASE_S / 3 - 0.1
        assert await wall.rounds(ledger) == 0
    wall.now += 1
    assert await wall.rounds(ledger) > 0


@pytest.mark.parametrize("leap", [LEASE_S, -LEASE_S], ids=["forward", "back"])
async def test_after_a_leap_of_the_clock_it_waits_one_lease(
    keeper: Maintenance, ledger: RecordingLedger, wall: Wall, leap: float
) -> None:
    """As after a suspended machine: the others have slept as well."""
    await wall.rounds(ledger)
    wall.now += leap
    await wall.rounds(ledger)
    assert await wall.rounds(ledger) == 0
    for _ in range(3):
        wall.now += LEASE_S / 3 + 0.1
        await wall.rounds(ledger)
    assert await wall.rounds(ledger) > 0


async def test_a_sweep_that_spans_an_outage_is_followed_by_one_lease(
    keeper: Maintenance, ledger: RecordingLedger, wall: Wall
) -> None:
    def suspend() -> None:
        wall.now += 10 * LEASE_S
        ledger.during_a_sweep = lambda: None

    ledger.during_a_sweep = suspend
    assert await wall.rounds(ledger) == 1
    assert await wall.rounds(ledger) == 0


async def test_a_database_that_cannot_be_read_means_one_lease(
    keeper: Maintenance, ledger: RecordingLedger, wall: Wall
) -> None:
    await wall.rounds(ledger)
    ledger.error = StoreFailed("out of order", maybe_committed=False)
    await wall.rounds(ledger)
    ledger.error = None
    assert await wall.rounds(ledger) == 0


async def test_no_surprise_ends_the_sweeping(keeper: Maintenance, ledger: RecordingLedger, wall: Wall) -> None:
    ledger.error = ZeroDivisionError()
    assert await wall.rounds(ledger) >= 2


async def test_no_surprise_ends_the_renewing(ledger: RecordingLedger) -> None:
    keeper = Maintenance(ledger, lease_seconds=0.003, sweep_seconds=1)
    ledger.error = ZeroDivisionError()
    keeper.start()
    async with asyncio.timeout(TEST_DEADLINE_S):
        while ledger.renewals < 3:
            await asyncio.sleep(0.001)
    await keeper.stop()


@pytest.mark.parametrize(
    "error", [None, StoreFailed("out of order", maybe_committed=False), ZeroDivisionError()], ids=repr
)
async def test_it_tidies_up_now_and_then_whatever_becomes_of_it(
    ledger: RecordingLedger, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    monkeypatch.setattr(keeper_module, "KEY_DELETION_INTERVAL_S", 0.003)
    keeper = Maintenance(ledger, lease_seconds=LEASE_S, sweep_seconds=LEASE_S)
    ledger.error = error
    keeper.start()
    async with asyncio.timeout(TEST_DEADLINE_S):
        while ledger.tidied < 3:
            await asyncio.sleep(0.001)
    await keeper.stop()


async def test_it_renews_what_is_in_flight_and_ends_what_is_lost(sqlite_url: str) -> None:
    """The real ledger, two processes, and nobody who asks."""
    async with open_books(sqlite_url) as books:
        lost = await lose_a_call(books)
        keeper = Maintenance(books.ledger, lease_seconds=0.03, sweep_seconds=0.01)
        async with books.ledger.reservation(books.caller, make_terms()) as reservation:
            before = (await books.charges())[reservation.charge_id].lease_ms
            books.clock.step(61)
            keeper.start()
            async with asyncio.timeout(TEST_DEADLINE_S):
                charges = await books.charges()
                while charges[lost].closed_by is None or charges[reservation.charge_id].lease_ms == before:
                    await asyncio.sleep(0.01)
                    charges = await books.charges()
            await keeper.stop()
            assert charges[lost].closed_by == "expire"
            assert charges[reservation.charge_id].state == "dispatched"
            reservation.set_usage(Usage(1, 1))


async def lose_a_call(books: Books) -> str:
    other = Ledger(books.store, lease_seconds=LEASE_S)
    other.start()
    reservation = await other.reservation(books.caller, make_terms()).__aenter__()
    await other._journal.stop()
    return reservation.charge_id
