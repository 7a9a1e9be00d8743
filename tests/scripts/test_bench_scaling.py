"""The bench measures servers with several workers, on which callers have tenants of their own, or one for all."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.deadlines import TEST_DEADLINE_S

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.mark.prove_only
def test_one_and_two_workers_and_the_hot_tenant_are_measured() -> None:
    ran = subprocess.run(
        [sys.executable, str(BENCH), "--quick", "--only", "sqlite", "--workers", "1,2"],
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("| sqlite")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[1:3] for row in rows] == [[str(n), tenants] for n in (1, 2) for tenants in ("one each", "one for all")]
    assert all(float(row[6].split()[0]) >= 1 for row in rows), "operations a commit"
    assert ran.stdout.count("finds no problems") == 4
