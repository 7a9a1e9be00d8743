"""The bench fills ledgers in bulk as servers would have, and measures calls on them."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.bulk_ledger import ENTRIES_PER_CHARGE, LedgerSize, fill_postgres, fill_sqlite
from bench.growth import parse_size
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.database.engine import Database
from tollkeeper.quota.audit.cut import read_cut
from tollkeeper.quota.audit.totals import estimate_totals
from tollkeeper.quota.audit.verify import verify

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.mark.parametrize("users", [1, 7, 2_001])
async def test_a_ledger_that_was_filled_in_bulk_is_right(database_url: str, database: Database, users: int) -> None:
    size = LedgerSize(users, 4_000)
    if database_url.startswith("sqlite"):
        fill_sqlite(database_url.removeprefix("sqlite:///"), size, "-")
    else:
        await fill_postgres(database_url, size, "-")
    about = await estimate_totals(database, await read_cut(database))
    report = await verify(database, now_ms=0)
    assert report.problems == []
    for estimate, found in zip(about, (report.entries, report.charges), strict=True):
        assert found / 3 < estimate < found * 3
    assert (report.windows, report.charges) == (users + size.tenants, 1_000)
    assert report.entries == 1_000 * ENTRIES_PER_CHARGE + report.windows
    assert size.tenants == (2 if users > 2_000 else 1)


@pytest.mark.prove_only
def test_the_growth_of_a_ledger_is_measured() -> None:
    ran = subprocess.run(
        [sys.executable, str(BENCH), "--quick", "--only", "sqlite", "--growth", "3:0,20:400"],
        capture_output=True,
        text=True,
        timeout=TEST_DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    _, _, first, second = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ran.stdout.splitlines()]
    assert (first[:3], second[:3]) == (["SQLite", "3", "0"], ["SQLite", "20", "400"])
    assert first[4] == "1.00 (1.00 to 1.00)"
    assert all(float(cell) > 0 for cell in second[-3:])


@pytest.mark.parametrize("text", ["", "x", "0:1", "5:-1", "5:x"])
def test_a_size_that_there_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)
