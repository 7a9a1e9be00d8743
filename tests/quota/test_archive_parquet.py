"""An archive as Parquet has the rows and columns of one as CSV, with their types."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from archived_ledger import ArchivedLedger, open_archived_ledger
from arro3.io import read_parquet
from sqlalchemy import text

from tollkeeper.quota.archive.files import csv_lines, hash_of
from tollkeeper.quota.archive.parquet import QUEUED_BATCHES, ParquetFile
from tollkeeper.quota.rules.charge_row import CHARGE_COLUMNS
from tollkeeper.quota.rules.page import EntryRow

TABLES = {"charges": CHARGE_COLUMNS, "entries": EntryRow._fields}


@pytest.fixture
async def archived(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ArchivedLedger]:
    async with open_archived_ledger(database_url, tmp_path / "archive", monkeypatch) as made:
        made.open_file = ParquetFile
        yield made


@pytest.mark.exhaustive_on_postgres
async def test_every_row_is_read_back_as_the_database_had_it(archived: ArchivedLedger) -> None:
    charge_ids = await archived.spend(3)
    await archived.ledger.refund(charge_ids[0])
    stored = {}
    async with archived.ledger.database.session() as session:
        for table, columns in TABLES.items():
            query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(columns[:3])}"
            rows = await (await session.connection()).execute(text(query))
            stored[table] = [tuple(row) for row in rows]
    archived.go_to("2024-03-01T12:00:00")
    [one] = await archived.archive(202312)
    assert (await archived.ledger.verify()).problems == []
    assert archived.verified == 1
    assert await archived.archive(202312) == []
    assert archived.verified == 1, "nothing is verified where there is nothing to archive"
    for table, columns in TABLES.items():
        path = one.folder / f"{table}.parquet"
        assert path.stat().st_mode & 0o777 == 0o600
        assert f'"sha256": "{hash_of(path)}"' in (one.folder / "manifest.json").read_text()
        names, found = read_back(path)
        assert names == list(columns)
        assert sorted(found, key=lambda row: row[:3]) == stored[table]
    flags = [row[CHARGE_COLUMNS.index("refunded")] for row in read_back(one.folder / "charges.parquet")[1]]
    assert sorted(flags) == [False, False, True]
    assert all(type(flag) is bool for flag in flags)


def test_rows_are_hashed_as_lines_of_csv_and_all_batches_are_written(tmp_path: Path) -> None:
    row = EntryRow(1, 2, 3, 202311, "chg_x", "reserve", 0, 0, 7, 0, 5, None, 'a "quoted", reason\n')
    with ParquetFile(tmp_path, "entries", EntryRow._fields) as file:
        for number in range(1, 200):
            rows = [row._replace(sequence=number)]
            assert file.write(rows) == csv_lines(rows)
        assert file.write([]) == []
        facts = file.close()
    _, rows_read = read_back(tmp_path / "entries.parquet")
    assert facts.rows == len(rows_read) == 199
    assert rows_read[-1] == tuple(row._replace(sequence=199))


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_no_thread(tmp_path: Path) -> None:
    rows = [EntryRow(1, 2, 3, 202311, "chg_x", "reserve", 0, 0, 7, 0, 5, None, None)]
    with ParquetFile(tmp_path, "entries", EntryRow._fields) as file:
        file._file.close()
        for _ in range(10 * QUEUED_BATCHES):
            with suppress(OSError):
                file.write(rows)
        with pytest.raises(OSError, match=r"entries\.parquet: "):
            file.close()
    assert not file._thread.is_alive()


def read_back(path: Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    table = read_parquet(path).read_all()
    columns = [[table.column(name)[row].as_py() for row in range(table.num_rows)] for name in table.column_names]
    return table.column_names, list(zip(*columns, strict=True))
