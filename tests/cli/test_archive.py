"""`tollkeeper archive`."""

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.command_runner import CommandRunner
from tollkeeper.administration.automatic_archive import ArchiveFailed, AutomaticArchive
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.quota import time_sorted_ids
from tollkeeper.telemetry.task_runs import Task, TaskRuns

OLD_NS = 1_700_000_000_000_000_000
"""14 November 2023."""


@pytest.fixture
def acme_of_old(acme: CommandRunner, monkeypatch: pytest.MonkeyPatch) -> CommandRunner:
    """A runner on a database in which ada's limit was set in November 2023."""
    with monkeypatch.context() as patch:
        patch.setattr(time_sorted_ids, "time", SimpleNamespace(time_ns=lambda: OLD_NS))
        acme.run("quota", "set", "ada@example.com", "--limit", "5000", "--window", "total")
    return acme


def test_old_months_go_to_a_folder_and_the_audit_log_says_so(acme_of_old: CommandRunner, tmp_path: Path) -> None:
    """The limit stays. `ledger verify` knows the month."""
    before = acme_of_old.run("quota", "show", "ada@example.com", "--json")
    found = json.loads(acme_of_old.run("archive", "--before", "2023-12", "--to", str(tmp_path / "old"), "--json"))
    [one] = found["archived"]
    assert (one["months"], one["folder"], one["entries"]) == ("2023-11", str(tmp_path / "old" / "2023-11"), 2)
    assert "archived: until 2023-11" in acme_of_old.run("ledger", "verify")
    assert acme_of_old.run("quota", "show", "ada@example.com", "--json") == before
    assert "ledger.archive" in acme_of_old.run("audit", "list")
    again = acme_of_old.run("archive", "--before", "2023-12", "--to", str(tmp_path / "old"))
    assert again == "There is nothing to archive.\n"


def test_without_a_folder_or_with_a_recent_month_nothing_is_archived(acme: CommandRunner, tmp_path: Path) -> None:
    assert "--to FOLDER, or TOLLKEEPER_ARCHIVE" in acme.fail("archive", "--before", "2023-12")
    assert "written as 2027-11" in acme.fail("archive", "--before", "2023-13", "--to", str(tmp_path))
    assert "cannot be archived yet" in acme.fail("archive", "--before", "2099-01", "--to", str(tmp_path))


def test_the_settings_name_the_folder_and_the_months_that_stay(
    acme_of_old: CommandRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLKEEPER_ARCHIVE", str(tmp_path / "kept"))
    monkeypatch.setenv("TOLLKEEPER_ARCHIVE_MONTHS", "1200")
    assert acme_of_old.run("archive") == "There is nothing to archive.\n"
    monkeypatch.setenv("TOLLKEEPER_ARCHIVE_MONTHS", "2")
    assert str(tmp_path / "kept" / "2023-11") in acme_of_old.run("archive")


@pytest.mark.exhaustive_on_postgres
async def test_a_server_archives_what_is_due_by_itself(
    acme_of_old: CommandRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is the one of the server, also where a file names it."""
    (tmp_path / "url").write_text("sqlite:///elsewhere.db")
    monkeypatch.delenv("TOLLKEEPER_DATABASE_URL")
    monkeypatch.setenv("TOLLKEEPER_DATABASE_URL_FILE", str(tmp_path / "url"))
    database = Database(acme_of_old.url)
    runs = TaskRuns()
    archive = AutomaticArchive(database, acme_of_old.url, SystemClock(), months=13, on_run=runs.note)
    try:
        with pytest.raises(ArchiveFailed, match="TOLLKEEPER_ARCHIVE"):
            await archive.archive()
        monkeypatch.setenv("TOLLKEEPER_ARCHIVE", str(tmp_path / "kept"))
        monkeypatch.setenv("TOLLKEEPER_ARCHIVE_FORMAT", "parquet")
        archive.start()
        while not runs.succeeded:
            assert not runs.failed
            await asyncio.sleep(0.05)
        await archive.stop()
        assert runs.succeeded == {Task.ARCHIVE: 1}
        assert (tmp_path / "kept" / "2023-11" / "entries.parquet").is_file()
        assert await archive.archive() == []
    finally:
        await database.close()


def test_parquet_without_its_library_names_the_package(
    acme_of_old: CommandRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tollkeeper.quota.archive.parquet", None)
    arguments = "archive", "--before", "2023-12", "--to", str(tmp_path), "--format", "parquet"
    assert "pip install 'arro3-core<" in acme_of_old.fail(*arguments)
