"""The ledger agrees with a small model for operations in any order, and its invariants hold."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from keyed_machine import KeyedMachine
from ledger_machine import AGREED, LedgerMachine
from ledger_world import World

from support.databases import STOCK

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url)
    yield made
    made.close()


@pytest.fixture
def agreed(request: pytest.FixtureRequest) -> settings:
    """The state machines' settings. A fifth of the examples does on stock PostgreSQL."""
    on_stock = request.node.callspec.params["database_url"] == STOCK
    return settings(AGREED, max_examples=max(10, AGREED.max_examples // 5)) if on_stock else AGREED


@pytest.mark.proof
def test_the_ledger_agrees_with_its_model_on_every_path(world: World, agreed: settings) -> None:
    class Machine(LedgerMachine):
        pass

    Machine.world = world
    run_state_machine_as_test(Machine, settings=agreed)


@pytest.mark.proof
def test_the_ledger_agrees_with_its_model_where_calls_are_repeated(world: World, agreed: settings) -> None:
    class Machine(KeyedMachine):
        pass

    Machine.world = world
    run_state_machine_as_test(Machine, settings=agreed)
