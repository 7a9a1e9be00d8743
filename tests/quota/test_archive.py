"""Old months go to files, and the ledger goes on: its balances are still proved by entries and carries."""

import asyncio
import csv
import gzip
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archived_ledger import ArchivedLedger, open_archived_ledger
from sqlalchemy import text
from verified_ledger import TERMS

from tollkeeper.chat import Usage
from tollkeeper.database.engine import Database
from tollkeeper.errors import ChargeArchived, ConfigurationError
from tollkeeper.quota import queries
from tollkeeper.quota.archive import archiver, export, removal
from tollkeeper.quota.archive.files import ExportFolder
from tollkeeper.quota.archive.registry import Months, Registry
from tollkeeper.quota.audit.cut import WholeWindows
from tollkeeper.quota.rules.carry import Carry
from tollkeeper.tenant_scope import ALL_TENANTS

pytestmark = pytest.mark.exhaustive_on_postgres


@pytest.fixture
async def archived(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ArchivedLedger]:
    """It is read and deleted in chunks of a few rows."""
    monkeypatch.setattr(export, "CHUNK_ROWS", 7)
    monkeypatch.setattr(removal, "BATCH_ROWS", 20)
    async with open_archived_ledger(database_url, tmp_path / "archive", monkeypatch) as made:
        yield made


@pytest.fixture
async def on_sqlite(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ArchivedLedger]:
    """For what no database does by itself."""
    async with open_archived_ledger(sqlite_url, tmp_path / "archive", monkeypatch) as made:
        yield made


async def use_three_months(archived: ArchivedLedger) -> tuple[list[str], list[str], list[str]]:
    """Charges of November to January; one of November ends in December, amid the calls of that month."""
    november = await archived.spend(3)
    archived.go_to("2023-11-30T23:59:59")
    late = archived.ledger.ledger.reservation(archived.ledger.caller, TERMS)
    await late.__aenter__()
    archived.go_to("2023-12-01T00:00:10")
    december = await archived.spend(2)
    late.set_usage(Usage(3, 4))
    await late.__aexit__(None, None, None)
    december += await archived.spend(2)
    await archived.ledger.refund(november[0])
    archived.go_to("2024-01-10T12:00:00")
    january = await archived.spend(2)
    return [*november, late.charge_id], december, january


async def test_months_are_exported_and_the_ledger_goes_on(archived: ArchivedLedger) -> None:
    november, december, january = await use_three_months(archived)
    before = await balances(archived)
    archived.go_to("2024-03-01T12:00:00")
    [first, second] = await archived.archive(202401)
    assert [one.months.label for one in (first, second)] == ["2023-11", "2023-12"]
    assert [months.label for months in archived.noted] == ["2023-11", "2023-12"]
    report = await archived.ledger.verify()
    assert (report.problems, report.charges, report.archived) == ([], len(january), 202312)
    assert await balances(archived) == before
    await archived.spend(3)
    assert (await archived.ledger.verify()).problems == []
    assert [row["id"] for row in exported(first.folder, "charges")] == sorted(november)
    assert [row["id"] for row in exported(second.folder, "charges")] == sorted(december)
    manifest = json.loads((first.folder / "manifest.json").read_text())
    assert manifest["sums"]["charges"]["cost_tokens"] == sum(
        int(row["cost_tokens"]) for row in exported(first.folder, "charges")
    )
    entries = exported(first.folder, "entries")
    assert manifest["sums"]["entries"]["settled"] == sum(int(row["settled"]) for row in entries)
    assert [file["rows"] for file in manifest["files"]] == [len(november), len(entries)]
    assert await archived.archive(202401) == []
    archived.go_to("2024-06-01T12:00:00")
    labels = [one.months.label for one in await archived.archive(202404)]
    assert [labels[0], labels[-1]] == ["2024-01", "2024-03"]
    report = await archived.ledger.verify()
    assert (report.problems, report.charges, report.archived) == ([], 0, 202403)
    assert report.entries == 2, "the carries of the windows that never end"
    await archived.spend()
    assert (await archived.ledger.verify()).problems == []


async def test_a_charge_that_is_archived_is_refused_by_name(archived: ArchivedLedger) -> None:
    november, *_ = await use_three_months(archived)
    archived.go_to("2024-03-01T12:00:00")
    await archived.archive(202401)
    with pytest.raises(ChargeArchived):
        await archived.ledger.refund(november[1])
    async with archived.ledger.database.session() as session:
        with pytest.raises(ChargeArchived):
            await queries.charge(session, november[1], ALL_TENANTS)


async def test_a_month_is_not_archived_before_35_days_after_its_end_nor_with_open_charges(
    on_sqlite: ArchivedLedger,
) -> None:
    reservation = on_sqlite.ledger.ledger.reservation(on_sqlite.ledger.caller, TERMS)
    await reservation.__aenter__()
    on_sqlite.go_to("2024-01-04T23:59:59")
    with pytest.raises(ConfigurationError, match="2023-11 cannot be archived yet"):
        await on_sqlite.archive(202312)
    on_sqlite.go_to("2024-01-05T00:00:00")
    with pytest.raises(ConfigurationError, match=r"Open charges of 2023-11: 1\."):
        await on_sqlite.archive(202312)
    reservation.set_usage(Usage(1, 1))
    await reservation.__aexit__(None, None, None)
    [done] = await on_sqlite.archive(202312)
    assert done.exported is not None
    assert done.exported.charges == 1


async def test_an_archive_that_is_killed_at_any_step_is_continued(
    archived: ArchivedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step the ledger is clean, calls go on, and nothing is gone that is not in the files."""
    november, december, january = await use_three_months(archived)
    archived.go_to("2024-03-01T12:00:00")
    steps, calls = 0, 0
    while True:
        steps += 1
        with monkeypatch.context() as patch:
            patch.setattr(Database, "session", session_that_ends_with(steps))
            try:
                await archived.archive(202401)
                break
            except Killed:
                pass
        report = await archived.ledger.verify(chunk=1_000)
        assert report.problems == []
        assert report.charges in [
            number + calls for number in (len(january), len(december + january), len(november + december + january))
        ]
        for label, ids in (("2023-11", november), ("2023-12", december)):
            if not await has_charges(archived, ids):
                assert [row["id"] for row in exported(archived.folder / label, "charges")] == sorted(ids)
        await archived.spend()
        calls += 1
    assert steps > 25
    assert sorted(path.name for path in archived.folder.iterdir()) == [".lock", "2023-11", "2023-12"]
    assert [months.label for months in archived.noted] == ["2023-11", "2023-12"]


async def test_from_its_begin_on_no_charge_of_an_archive_changes(
    archived: ArchivedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    november, december, _ = await use_three_months(archived)
    archived.go_to("2024-03-01T12:00:00")
    with monkeypatch.context() as patch:
        patch.setattr(ExportFolder, "begin", raise_killed)
        with pytest.raises(Killed):
            await archived.archive(202401)
    with pytest.raises(ChargeArchived):
        await archived.ledger.refund(november[1])
    await archived.ledger.refund(december[1])
    assert len(await archived.archive(202401)) == 2
    assert (await archived.ledger.verify()).problems == []


async def test_another_command_waits_until_the_first_is_gone(
    on_sqlite: ArchivedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use_three_months(on_sqlite)
    on_sqlite.go_to("2024-03-01T12:00:00")
    with monkeypatch.context() as patch:
        patch.setattr(ExportFolder, "begin", raise_killed)
        with pytest.raises(Killed):
            await on_sqlite.archive(202401)
    first_folder, on_sqlite.folder = on_sqlite.folder, on_sqlite.folder.with_name("another")
    with pytest.raises(ConfigurationError, match=f"2023-11 is being archived by .*{first_folder.name}"):
        await on_sqlite.archive(202401)
    on_sqlite.ledger.clock.step(61)
    assert [one.folder.parent.name for one in await on_sqlite.archive(202401)] == ["another", "another"]


async def test_of_two_commands_that_begin_a_month_at_once_one_is_refused(
    archived: ArchivedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own folder, as on two hosts, and has found that nothing else archives."""
    november, *_ = await use_three_months(archived)
    archived.go_to("2024-03-01T12:00:00")
    both_begin, begin = asyncio.Barrier(2), Registry.begin

    async def begin_together(registry: Registry, months: Months, ledger: str, now_ms: int) -> None:
        async with asyncio.timeout(15):
            await both_begin.wait()
        await begin(registry, months, ledger, now_ms)

    monkeypatch.setattr(Registry, "begin", begin_together)
    other = replace(archived, folder=archived.folder.with_name("another"))
    ended = await asyncio.gather(archived.archive(202312), other.archive(202312), return_exceptions=True)
    [refusal] = [one for one in ended if isinstance(one, BaseException)]
    assert isinstance(refusal, ConfigurationError), refusal
    assert refusal.detail == "Another command archives 2023-11. Wait for its end."
    [[done]] = [one for one in ended if not isinstance(one, BaseException)]
    assert [row["id"] for row in exported(done.folder, "charges")] == sorted(november)
    assert [months.label for months in archived.noted] == ["2023-11"]
    assert [one.name for folder in (archived.folder, other.folder) for one in folder.glob("2023-11*")] == ["2023-11"]
    assert await archived.archive(202312) == await other.archive(202312) == []
    assert (await archived.ledger.verify()).problems == []


async def test_rows_stay_until_their_export_is_found_complete(
    on_sqlite: ArchivedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    november, *_ = await use_three_months(on_sqlite)
    on_sqlite.go_to("2024-03-01T12:00:00")
    with monkeypatch.context() as patch:
        patch.setattr(archiver, "remove", raise_killed)
        with pytest.raises(Killed):
            await on_sqlite.archive(202401)
    with (on_sqlite.folder / "2023-11" / "charges.csv.gz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigurationError, match="is not complete, so its rows are not removed"):
        await on_sqlite.archive(202401)
    assert await has_charges(on_sqlite, november)
    assert (await on_sqlite.ledger.verify()).problems == []


async def test_a_verification_since_the_last_goes_on_behind_what_was_archived(
    on_sqlite: ArchivedLedger, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    await on_sqlite.spend(2)
    assert (await on_sqlite.ledger.verify_since(mark)).problems == []
    await use_three_months(on_sqlite)
    on_sqlite.go_to("2024-03-01T12:00:00")
    await on_sqlite.archive(202401)
    await on_sqlite.spend()
    report = await on_sqlite.ledger.verify_since(mark)
    assert (report.problems, report.archived) == ([], 202312)
    await on_sqlite.spend()
    report = await on_sqlite.ledger.verify_since(mark)
    assert (report.problems, report.entries) == ([], 6)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM entries WHERE sequence = (SELECT max(sequence) - 1 FROM entries)",
        "DELETE FROM entries WHERE (window_id, sequence) IN (SELECT max(window_id), -202312 FROM entries"
        " WHERE sequence < 0)",
        "UPDATE entries SET settled = settled + 1 WHERE sequence < 0 AND settled > 0",
        "UPDATE windows SET settled = settled + 1 WHERE id = (SELECT min(id) FROM windows)",
        "DELETE FROM entries WHERE sequence > 0 AND window_id = (SELECT max(id) FROM windows)",
        "UPDATE archives SET whole_entries = whole_entries - 1 WHERE month = 202312",
    ],
)
async def test_what_is_lost_beside_an_archive_is_found(on_sqlite: ArchivedLedger, damage: str) -> None:
    await use_three_months(on_sqlite)
    on_sqlite.go_to("2024-03-01T12:00:00")
    await on_sqlite.archive(202401)
    assert (await on_sqlite.ledger.verify()).problems == []
    await on_sqlite.ledger.execute(damage)
    assert (await on_sqlite.ledger.verify()).problems


@pytest.mark.parametrize("lost", ["amounts", "entry", "all of a window"])
async def test_an_archive_that_loses_an_entry_is_found(
    on_sqlite: ArchivedLedger, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """A broken variant of the archive."""
    await use_three_months(on_sqlite)
    on_sqlite.go_to("2024-03-01T12:00:00")
    genuine, genuine_plus = Carry.add, WholeWindows.plus

    def add(carry: Carry, sequence: int, kind: str, amounts: tuple[int, int, int, int], line: str) -> Carry:
        if sequence == 4 and lost == "amounts":
            return genuine(carry, sequence, kind, (0, 0, 0, 0), line)
        if sequence == 4 and lost == "entry":
            return carry
        return genuine(carry, sequence, kind, amounts, line)

    def plus(windows: WholeWindows, others: Sequence[int]) -> WholeWindows:
        return windows if lost == "all of a window" and others[0] == 1 else genuine_plus(windows, others)

    with monkeypatch.context() as patch:
        patch.setattr(Carry, "add", add)
        patch.setattr(WholeWindows, "plus", plus)
        await on_sqlite.archive(202401)
    assert (await on_sqlite.ledger.verify()).problems


class Killed(BaseException):
    """The process ends here."""


def raise_killed(*_: object) -> None:
    raise Killed


def session_that_ends_with(number: int) -> Callable[..., Any]:
    """Database.session, whose transaction of this number is never begun."""
    genuine, opened = Database.session, 0

    def session(database: Database, *arguments: Any) -> Any:
        nonlocal opened
        opened += 1
        if opened == number:
            raise Killed
        return genuine(database, *arguments)

    return session


async def has_charges(archived: ArchivedLedger, ids: list[str]) -> bool:
    """Whether the ledger has all of them; else it must have none, or be deleting them."""
    async with archived.ledger.database.session() as session:
        connection = await session.connection()
        names = ", ".join(f"'{charge_id}'" for charge_id in ids)
        found = (await connection.execute(text(f"SELECT count(*) FROM charges WHERE id IN ({names})"))).scalar_one()
    return bool(found == len(ids))


async def balances(archived: ArchivedLedger) -> list[tuple[int, ...]]:
    async with archived.ledger.database.session() as session:
        rows = await (await session.connection()).execute(
            text("SELECT id, granted, settled, pending, forgiven, sequence FROM windows ORDER BY id")
        )
        return [tuple(row) for row in rows]


def exported(folder: Path, table: str) -> list[dict[str, str]]:
    with gzip.open(folder / f"{table}.csv.gz", "rt") as file:
        return list(csv.DictReader(file))
