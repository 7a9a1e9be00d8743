"""Whether a directed scenario or a state machine detects a deliberate defect.

A sound ledger does neither. A defect that makes the ledger raise what is no refusal proves nothing, and is an error.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test
from ledger_machine import AGREED, LedgerMachine
from ledger_world import LedgerBroke, World
from play import Play, Scenario

UNTIL_CAUGHT = settings(AGREED, max_examples=300, phases=(Phase.generate,))

Defect = Callable[[pytest.MonkeyPatch], None]


class Detectable(NamedTuple):
    """A defect, and the scenario that detects it."""

    defect: Defect
    scenario: Scenario


def fails_in(world: World, scenario: Scenario) -> bool:
    """Whether the ledger of this world differs from its model in a scenario. Raises LedgerBroke."""
    try:
        scenario(Play(world))
    except LedgerBroke:
        raise
    except AssertionError:
        return True
    return False


def is_detected(world: World, machine: type[LedgerMachine]) -> bool:
    """Whether the machine fails in this world or behaves otherwise when repeated. Raises LedgerBroke."""
    try:
        run_state_machine_as_test(type("Machine", (machine,), {"world": world}), settings=UNTIL_CAUGHT)
    except LedgerBroke:
        raise
    except (AssertionError, Flaky):
        return True
    return False
