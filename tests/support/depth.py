"""The amount of work of tests whose length is variable. TEST_DEPTH selects it; `make` sets it for each target."""

import os
from typing import NamedTuple

VARIABLE = "TEST_DEPTH"


class Depth(NamedTuple):
    """Amounts of work, per test."""

    machine_examples: int
    """Examples of each state machine. An example has up to 30 steps."""
    bank_calls: int
    """Calls of each of the bank's processes."""
    kills: int
    """How often a server is killed at a random instant."""
    examples: float
    """The share of the examples that a test of a property names."""
    test_may_take_s: float
    """The time limit of a test, in seconds."""
    contract_examples: int
    """How many requests schemathesis makes up for each operation, in its phase `fuzzing`."""
    contract_seed: int | None
    """The seed of these requests; None for another one each time."""
    contract_phases: str
    """What schemathesis does. Its phase `coverage` sends 17,000 requests, `stateful` sequences of requests."""
    every_cell: bool = False
    """Whether each row of the table "Who pays" runs on every pair of an endpoint and a wire; else most run on each
    endpoint once, with wires that change from row to row.
    """
    one_postgres: bool = False
    """Whether what runs on stock PostgreSQL runs on the wheel's only if it is marked `postgres_versions`."""


DEPTHS = {
    "test": Depth(
        machine_examples=10,
        bank_calls=100,
        kills=1,
        examples=0.15,
        test_may_take_s=240,
        contract_examples=3,
        contract_seed=1,
        contract_phases="examples,fuzzing",
    ),
    "check": Depth(
        machine_examples=15,
        bank_calls=100,
        kills=3,
        examples=0.2,
        test_may_take_s=600,
        contract_examples=5,
        contract_seed=1,
        contract_phases="examples,fuzzing",
        one_postgres=True,
    ),
    "prove": Depth(
        machine_examples=500,
        bank_calls=1_000,
        kills=50,
        examples=1,
        test_may_take_s=7_200,
        contract_examples=500,
        contract_seed=None,
        contract_phases="examples,coverage,fuzzing,stateful",
        every_cell=True,
    ),
}


def _chosen() -> Depth:
    name = os.environ.get(VARIABLE, "test")
    if name not in DEPTHS:
        raise ValueError(f"{VARIABLE} is {name!r}; it must be one of {', '.join(DEPTHS)}")
    return DEPTHS[name]


DEPTH = _chosen()


def examples(most: int) -> int:
    """How many examples a test of a property gets, of the most that it can have."""
    return max(10, int(most * DEPTH.examples))
