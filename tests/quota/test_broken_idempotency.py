"""The tests of the tests, for idempotency keys: one mistake gets past neither its scenario nor the state machine."""

from collections.abc import Iterator

import pytest
import scenarios_of_keys
from defect_detection import Defect, Detectable, fails_in, is_detected
from keyed_machine import KeyedMachine
from ledger_world import World

from tollkeeper.quota.rules import admission, decide, idempotency
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, KeyName, KeyRow, StoredResponse
from tollkeeper.quota.rules.operations import ClosedCharge, Extend, Hold, Replayed, StoreResponse
from tollkeeper.quota.rules.page import Page

pytestmark = pytest.mark.exhaustive


def a_key_stands_for_ever(patch: pytest.MonkeyPatch) -> None:
    """An answer of yesterday is given again."""
    genuine = KeyRow.is_free
    patch.setattr(KeyRow, "is_free", lambda row, now_ms, _: genuine(row, now_ms, 10**15))


def a_released_call_keeps_its_key(patch: pytest.MonkeyPatch) -> None:
    """Who was refused by the provider may not try again."""
    patch.setattr(KeyRow, "is_free", lambda row, now_ms, lifetime_ms: now_ms - row.created_ms >= lifetime_ms)


def the_key_is_all_that_counts(patch: pytest.MonkeyPatch) -> None:
    """Another request gets the answer of the first."""

    def find_response(page: Page, name: KeyName, attempt: KeyedRequest) -> StoredResponse | None:
        row = page.keys.get(name)
        return genuine(page, name, attempt if row is None else KeyedRequest(attempt.key, row.fingerprint))

    genuine = idempotency.find_response
    patch.setattr(admission, "find_response", find_response)


def any_answer_will_do(patch: pytest.MonkeyPatch) -> None:
    """A call leaves its answer under a key that is another's."""

    def store_response(page: Page, to_store: StoreResponse, closed: ClosedCharge) -> None:
        row = page.keys.get(to_store.name)
        genuine(page, to_store, closed if row is None else closed._replace(charge_id=row.charge_id))

    genuine = idempotency.store_response
    patch.setattr(decide, "store_response", store_response)


def a_key_is_only_looked_at(patch: pytest.MonkeyPatch) -> None:
    """Nothing is left under it, so every call is the first."""
    patch.setattr(admission, "claim_key", lambda page, name, attempt, charge: None)


def the_key_stays_with_what_failed(patch: pytest.MonkeyPatch) -> None:
    """A further attempt does not claim_key it over, and another call may have it."""

    def extend(page: Page, operation: Extend) -> Hold | Replayed:
        operation.keyed_request = None
        return genuine(page, operation)

    genuine = admission.extend
    patch.setattr(decide, "extend", extend)


def the_state_from_before_the_batch(patch: pytest.MonkeyPatch) -> None:
    """What this very batch did to the call of a key is not seen."""
    patch.setattr(idempotency, "_current_row", lambda page, name: page.keys.get(name))


DEFECTS: list[Detectable] = [
    Detectable(a_key_stands_for_ever, scenarios_of_keys.answer_of_a_key),
    Detectable(any_answer_will_do, scenarios_of_keys.answer_of_a_key),
    Detectable(the_state_from_before_the_batch, scenarios_of_keys.key_within_a_batch),
]
"""Those whose detection by the state machine takes many examples."""
FOR_THE_MACHINE: list[Defect] = [
    a_released_call_keeps_its_key,
    the_key_is_all_that_counts,
    a_key_is_only_looked_at,
    the_key_stays_with_what_failed,
]


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    made = World(sqlite_url)
    yield made
    made.close()


@pytest.mark.parametrize("one", [pytest.param(one, id=one.defect.__name__) for one in DEFECTS])
def test_a_defect_in_idempotency_fails_its_scenario(
    world: World, one: Detectable, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.defect(monkeypatch)
    assert fails_in(world, one.scenario)


@pytest.mark.parametrize("defect", [pytest.param(one, id=one.__name__) for one in FOR_THE_MACHINE])
def test_the_state_machine_detects_a_defect_in_idempotency(
    world: World, defect: Defect, monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    assert is_detected(world, KeyedMachine)
