"""The bench measures streams of tenants with and without moderation, and checks that each was served and judged."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.deadlines import TEST_DEADLINE_S

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.mark.prove_only
def test_each_mode_of_moderation_is_measured_on_the_same_server() -> None:
    ran = subprocess.run(
        [sys.executable, str(BENCH), "--quick", "--only", "sqlite", "--moderation"],
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("| sqlite")]
    rows = {cells[1]: cells for line in lines if (cells := [cell.strip() for cell in line.split("|")[1:-1]])}
    assert list(rows) == ["off", "off, again", "rules on the input", "rules on both", "a classifier"]
    assert float(rows["rules on both"][3].split()[0]) > 30, "the window is not part of the time to the first token"
    assert "85 native-bursts × 78 + 10 native-streams × 78 tokens = 7,410, equal to the usage" in ran.stdout
