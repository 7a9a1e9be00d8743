"""The verifier beside servers that write: it ends, and what changes while it reads is no problem."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import TextClause, text
from verified_ledger import TERMS, VerifiedLedger, open_verified

from bench.bulk_ledger import LedgerSize, fill_postgres
from support.deadlines import TEST_DEADLINE_S
from tollkeeper.chat import Usage
from tollkeeper.database.engine import Database
from tollkeeper.quota.audit import charge_chunks
from tollkeeper.quota.audit.reading import read, read_values
from tollkeeper.quota.time_sorted_ids import new_id

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
async def verified(database_url: str) -> AsyncIterator[VerifiedLedger]:
    async with open_verified(database_url) as made:
        yield made


async def test_verify_ends_though_charges_are_made_as_fast_as_it_reads_them(
    verified: VerifiedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_and_spend(database: Database, statement: TextClause, **values: Any) -> Any:
        rows = await read_values(database, statement, **values)
        await verified.spend(Usage(1, 1))
        return rows

    for _ in range(3):
        await verified.spend(Usage(1, 1))
    monkeypatch.setattr(charge_chunks, "read_values", read_and_spend)
    async with asyncio.timeout(TEST_DEADLINE_S):
        report = await verified.verify(chunk=5)
    assert report.problems == []
    assert 3 <= report.charges < 20


async def test_a_call_that_ends_between_two_statements_is_no_problem(
    verified: VerifiedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = verified.ledger.reservation(verified.caller, TERMS)
    await waiting.__aenter__()
    statements: list[str] = []

    async def read_and_settle(database: Database, statement: TextClause, **values: Any) -> Any:
        rows = await read_values(database, statement, **values)
        statements.append(str(statement))
        if len(statements) == 1:  # the charges of the chunk
            waiting.set_usage(Usage(1, 1))
            await waiting.__aexit__(None, None, None)
        return rows

    monkeypatch.setattr(charge_chunks, "read_values", read_and_settle)
    report = await verified.verify()
    assert report.problems == []
    assert report.charges == 1
    assert "FROM entries" in statements[-2], "the charge and its entries were compared"
    assert "FROM charges" in statements[-1], "and again, in one snapshot"
    assert "FROM entries" in statements[-1]


async def test_entries_of_charges_that_there_are_not_are_found_wherever_they_sort(verified: VerifiedLedger) -> None:
    """Those after the last charge are in no chunk of charges."""
    first, second = [await verified.spend(Usage(1, 1)) for _ in range(2)]
    orphan = new_id("chg")
    await verified.execute(
        f"UPDATE entries SET source_id = '{orphan}' WHERE source_id = '{second}'",
        f"DELETE FROM charges WHERE id = '{second}'",
    )
    report = await verified.verify(chunk=1)
    assert {problem.what.rpartition(")")[2] for problem in report.problems} == {" belongs to no charge"}
    assert len(report.problems) == 3 * 2
    assert all(orphan in problem.what and first not in problem.what for problem in report.problems)


@pytest.mark.parametrize("chunks_before", [0, 7])
async def test_a_chunk_is_read_by_its_range_of_the_index(any_postgres_url: str, chunks_before: int) -> None:
    """PostgreSQL's scan of a range of row values does not stop at its end, but at that of the tenant."""
    await fill_postgres(any_postgres_url, LedgerSize(20, 40_000), "-")
    database = Database(any_postgres_url)
    reader, after = charge_chunks.ChargeReader(database, new_id("chg"), 500, 0), charge_chunks.BEGIN
    for _ in range(chunks_before):
        after = await reader.find_last(after)
    last = await reader.find_last(after)
    bounds = after._asdict() | {f"last_{name}": value for name, value in last._asdict().items()}
    is_same = after.tenant_id == last.tenant_id, after.month == last.month
    for make_statement, rows in ((charge_chunks._charges_statement, 500), (charge_chunks._entries_statement, 2_000)):
        explained = text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {make_statement(*is_same).text}")
        [[[found]]] = await read(database, explained, newest=reader._newest, cut=0, most=8 * 500, **bounds)
        plan = found["Plan"]
        assert plan["Actual Rows"] == rows
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 1.5 * rows
    await database.close()
