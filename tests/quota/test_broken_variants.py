"""The tests of the tests: a ledger with one deliberate mistake gets past neither its scenario nor the state machine."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import defects_of_admission
import defects_of_calls
import defects_of_limits
import defects_of_removal
import defects_of_tags
import defects_of_templates
import defects_of_windows
import pytest
from defect_detection import Defect, Detectable, fails_in, is_detected
from ledger_machine import LedgerMachine
from ledger_world import World

from support.factories import FakeClock, make_store
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.rules.windows import Period, span

pytestmark = pytest.mark.exhaustive

DEFECTS: list[Detectable] = [
    *defects_of_calls.DEFECTS,
    *defects_of_admission.DEFECTS,
    *defects_of_limits.DEFECTS,
    *defects_of_removal.DEFECTS,
    *defects_of_templates.DEFECTS,
    *defects_of_windows.DEFECTS,
    *defects_of_tags.DEFECTS,
]
FOR_THE_MACHINE: list[Defect] = [
    defects_of_calls.the_late_truth_is_dropped,
    defects_of_calls.leases_do_not_count,
    defects_of_calls.a_release_that_books,
    defects_of_calls.a_run_again_is_new,
    defects_of_calls.memory_of_what_others_changed,
    defects_of_calls.a_refused_extension_keeps_what_failed,
    defects_of_calls.a_failed_attempt_is_paid,
    defects_of_admission.only_what_is_settled_counts,
    defects_of_admission.a_part_is_enough,
    defects_of_admission.a_refusal_keeps_its_hold,
]
"""Those that the state machine detects within a second."""


class ResettingStore:
    """Windows that are over are emptied and used again, as a reset job would."""

    lost_reason: str | None = None
    refuses_calls = False

    def __init__(self, database_url: str, clock: FakeClock) -> None:
        self._path = database_url.removeprefix("sqlite:///")
        self._clock = clock
        self._genuine = make_store(database_url, clock)

    async def run(self, read_set: ReadSet, decide: Callable[[Page], None]) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            over = connection.execute(
                "SELECT windows.id, period FROM windows JOIN quotas ON quotas.id = quota_id WHERE ends_ms <= ?",
                (self._clock.ms,),
            ).fetchall()
            for window_id, period in over:
                renewed = (*span(Period(period), self._clock.ms), window_id)
                connection.execute("UPDATE windows SET starts_ms = ?, ends_ms = ?, settled = 0 WHERE id = ?", renewed)
        await self._genuine.run(read_set, decide)

    async def find_lapsed(self, limit: int) -> list[tuple[str, int]]:
        return await self._genuine.find_lapsed(limit)

    async def delete_old_keys(self, limit: int) -> int:
        return await self._genuine.delete_old_keys(limit)

    async def delete_free_charges(self, min_age_ms: int, limit: int) -> int:
        return await self._genuine.delete_free_charges(min_age_ms, limit)

    async def probe(self) -> None:
        await self._genuine.probe()

    async def close(self) -> None:
        await self._genuine.close()


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    made = World(sqlite_url)
    yield made
    made.close()


@pytest.mark.parametrize("one", [pytest.param(one, id=one.defect.__name__) for one in DEFECTS])
def test_a_defect_in_the_ledger_fails_its_scenario(
    world: World, one: Detectable, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.defect(monkeypatch)
    assert fails_in(world, one.scenario)


@pytest.mark.parametrize("defect", [pytest.param(one, id=one.__name__) for one in FOR_THE_MACHINE])
def test_the_state_machine_detects_a_defect(world: World, defect: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    defect(monkeypatch)
    assert is_detected(world, LedgerMachine)


def test_a_reset_in_place_is_detected(sqlite_url: str) -> None:
    world = World(sqlite_url, ResettingStore)
    assert is_detected(world, LedgerMachine)
    world.close()
