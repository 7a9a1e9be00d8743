"""The bench measures calls on further quotas of each kind beside calls on two, and checks what they have cost."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.deadlines import TEST_DEADLINE_S

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.mark.prove_only
def test_further_quotas_of_each_kind_are_measured() -> None:
    ran = subprocess.run(
        [sys.executable, str(BENCH), "--quick", "--quotas"],
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[:3] for row in rows] == [
        [whose, unit, number]
        for whose in ("user", "tenant", "key", "group")
        for unit, number in (("tokens", "3"), ("requests", "3"), ("concurrency", "1"))
    ]
