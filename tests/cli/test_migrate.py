"""`tollkeeper migrate` on SQLite."""

from pathlib import Path

import pytest
from alembic import command

from support.command_runner import CommandRunner
from tollkeeper.database.migrations import alembic_config
from tollkeeper.database.schema_revision import SCHEMA_REVISION
from tollkeeper.database.sqlite_file import read_schema_revision


def test_migrate_creates_the_schema_and_refuses_a_newer_one_and_what_is_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "tollkeeper.db"
    runner = CommandRunner(f"sqlite:///{path}", monkeypatch, capsys)
    for outcome in ("was created", "is up to date"):
        assert runner.run("migrate") == f"The schema of the database {path} {outcome}, at revision {SCHEMA_REVISION}.\n"
        assert read_schema_revision(path) == SCHEMA_REVISION
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
    runner.query("UPDATE alembic_version SET version_num = '9999'")
    assert runner.fail("migrate").startswith("The database schema is newer than this version.")
    path.write_text("no database")
    assert read_schema_revision(path) is None
    assert runner.fail("migrate").startswith(f"The database {path} cannot be migrated: ")


def test_migrate_names_the_revision_before_and_after_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.db"
    runner = CommandRunner(f"sqlite:///{path}", monkeypatch, capsys)
    command.upgrade(alembic_config(runner.url), "0004")
    outcome = f"was upgraded from revision 0004 to {SCHEMA_REVISION}."
    assert runner.run("migrate") == f"The schema of the database {path} {outcome}\n"
    assert read_schema_revision(path) == SCHEMA_REVISION
    assert "is up to date" in runner.run("migrate")
