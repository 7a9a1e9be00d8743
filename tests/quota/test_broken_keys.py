"""The tests of the tests, for idempotency keys: one deliberate mistake does not get past the state machine."""

from collections.abc import Iterator

import pytest
from catching import Break, caught
from keyed_machine import KeyedMachine
from ledger_world import World

from tollkeeper.quota import keys, repeating, reserving, verbs
from tollkeeper.quota.keys import Attempt, KeptAnswer, KeyName, KeyRow
from tollkeeper.quota.operations import Closed, Extend, Held, Keep, Replayed
from tollkeeper.quota.store import Page

pytestmark = pytest.mark.exhaustive


def a_key_stands_for_ever(patch: pytest.MonkeyPatch) -> None:
    """An answer of yesterday is given again."""
    patch.setattr(keys, "KEPT_MS", 10**15)


def a_released_call_keeps_its_key(patch: pytest.MonkeyPatch) -> None:
    """Who was refused by the provider may not try again."""
    patch.setattr(KeyRow, "free", lambda row, now_ms: now_ms - row.created_ms >= keys.KEPT_MS)


def the_key_is_all_that_counts(patch: pytest.MonkeyPatch) -> None:
    """Another request gets the answer of the first."""

    def kept_answer(page: Page, name: KeyName, attempt: Attempt) -> KeptAnswer | None:
        row = page.keys.get(name)
        return genuine(page, name, attempt if row is None else Attempt(attempt.key, row.fingerprint))

    genuine = repeating.kept_answer
    patch.setattr(reserving, "kept_answer", kept_answer)


def any_answer_will_do(patch: pytest.MonkeyPatch) -> None:
    """A call leaves its answer under a key that is another's."""

    def keep(page: Page, wish: Keep, closed: Closed) -> None:
        row = page.keys.get(wish.name)
        genuine(page, wish, closed if row is None else closed._replace(charge_id=row.charge_id))

    genuine = repeating.keep
    patch.setattr(verbs, "keep", keep)


def a_key_is_only_looked_at(patch: pytest.MonkeyPatch) -> None:
    """Nothing is left under it, so every call is the first."""
    patch.setattr(reserving, "take", lambda page, name, attempt, charge: None)


def the_key_stays_with_what_failed(patch: pytest.MonkeyPatch) -> None:
    """A further attempt does not take it over, and another call may have it."""

    def extend(page: Page, operation: Extend) -> Held | Replayed:
        operation.attempt = None
        return genuine(page, operation)

    genuine = reserving.extend
    patch.setattr(verbs, "extend", extend)


def the_state_from_before_the_batch(patch: pytest.MonkeyPatch) -> None:
    """What this very batch did to the call of a key is not seen."""
    patch.setattr(repeating, "_row", lambda page, name: page.keys.get(name))


VARIANTS: list[Break] = [
    a_key_stands_for_ever,
    a_released_call_keeps_its_key,
    the_key_is_all_that_counts,
    any_answer_will_do,
    a_key_is_only_looked_at,
    the_key_stays_with_what_failed,
    the_state_from_before_the_batch,
]


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    made = World(sqlite_url)
    yield made
    made.close()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_keys_with_one_mistake_are_caught(world: World, variant: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    variant(monkeypatch)
    assert caught(world, KeyedMachine)
