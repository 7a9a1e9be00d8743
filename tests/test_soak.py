"""The soak itself, in a short form; and that it notices what grows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from soak.samples import Sample, growth_problems
from support.deadlines import TEST_DEADLINE_S

TESTS = Path(__file__).parent


def sample(rss_mib: float = 200.0, descriptors: int = 50, tasks: int = 15) -> Sample:
    return Sample(0, 0, rss_mib, descriptors, tasks, 16, ())


def test_what_grows_is_noticed_and_what_warms_up_is_not() -> None:
    idle = sample()
    warming = [sample(150 + 5 * min(number, 10)) for number in range(30)]
    assert growth_problems(warming, idle, sample(descriptors=55, tasks=20)) == []
    growing = [sample(150 + 3 * number) for number in range(30)]
    assert [problem.split(":")[0] for problem in growth_problems(growing, idle, idle)] == ["memory grows"]
    found = growth_problems([], idle, sample(descriptors=80, tasks=40))
    assert [problem.split(":")[0] for problem in found] == ["descriptors grow", "tasks grow"]


@pytest.mark.prove_only
def test_a_short_soak_ends_flat_and_clean() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "soak", "--minutes", "1"],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=10 * TEST_DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
