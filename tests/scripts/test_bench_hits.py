"""The bench measures calls that the cache answers beside others, and checks that they cost nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.deadlines import TEST_DEADLINE_S

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.mark.prove_only
def test_hits_and_calls_are_measured_on_the_same_server() -> None:
    ran = subprocess.run(
        [sys.executable, str(BENCH), "--quick", "--only", "sqlite", "--hits"],
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("| sqlite")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[1] for row in rows] == ["a provider", "the cache"]
    assert float(rows[1][5].split()[0]) < 1
    assert "58 calls × 74 tokens = 4,292, equal to the usage in its quotas." in ran.stdout
