"""The ledger agrees with its model in each directed scenario: what the state machine seldom combines."""

from collections.abc import Iterator

import pytest
import scenarios_of_calls
import scenarios_of_keys
import scenarios_of_limits
import scenarios_of_removal
import scenarios_of_tags
import scenarios_of_templates
from ledger_world import World
from play import Play, Scenario

SCENARIOS = [
    *scenarios_of_calls.SCENARIOS,
    *scenarios_of_keys.SCENARIOS,
    *scenarios_of_limits.SCENARIOS,
    *scenarios_of_removal.SCENARIOS,
    *scenarios_of_templates.SCENARIOS,
    *scenarios_of_tags.SCENARIOS,
]


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url)
    yield made
    made.close()


@pytest.mark.parametrize("scenario", [pytest.param(one, id=one.__name__) for one in SCENARIOS])
def test_the_ledger_agrees_with_its_model_in_a_scenario(world: World, scenario: Scenario) -> None:
    scenario(Play(world))
