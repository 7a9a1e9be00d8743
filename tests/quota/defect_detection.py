"""Whether a state machine detects a deliberate defect."""

from collections.abc import Callable

import pytest
from hypothesis import Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test
from ledger_machine import AGREED, LedgerMachine
from ledger_world import World

UNTIL_CAUGHT = settings(AGREED, max_examples=300, phases=(Phase.generate,))

Defect = Callable[[pytest.MonkeyPatch], None]


def is_detected(world: World, machine: type[LedgerMachine]) -> bool:
    """Whether the machine fails in this world or behaves otherwise when repeated. A sound ledger does neither."""
    try:
        run_state_machine_as_test(type("Machine", (machine,), {"world": world}), settings=UNTIL_CAUGHT)
    except (AssertionError, Flaky):
        return True
    return False
