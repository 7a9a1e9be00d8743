"""Whatever is done to the ledger, in whatever order: it does what a small model of it does, and keeps its promises."""

from collections.abc import Iterator

import pytest
from hypothesis.stateful import run_state_machine_as_test
from keyed_machine import KeyedMachine
from ledger_machine import AGREED, LedgerMachine
from ledger_world import World

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url)
    yield made
    made.close()


@pytest.mark.proof
def test_the_ledger_agrees_with_its_model_on_every_path(world: World) -> None:
    class Machine(LedgerMachine):
        pass

    Machine.world = world
    run_state_machine_as_test(Machine, settings=AGREED)


@pytest.mark.proof
def test_it_agrees_with_its_model_where_calls_are_repeated(world: World) -> None:
    class Machine(KeyedMachine):
        pass

    Machine.world = world
    run_state_machine_as_test(Machine, settings=AGREED)
