"""`tollkeeper migrate` on SQLite."""

from pathlib import Path

import pytest

from support.command_runner import CommandRunner
from tollkeeper.schema_revision import SCHEMA_REVISION
from tollkeeper.sqlite_file import read_schema_revision


def test_migrate_creates_the_schema_and_refuses_a_newer_one_and_what_is_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "tollkeeper.db"
    runner = CommandRunner(f"sqlite:///{path}", monkeypatch, capsys)
    for _ in range(2):
        assert runner.run("migrate") == f"The schema of the database {path} is up to date.\n"
        assert read_schema_revision(path) == SCHEMA_REVISION
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
    runner.query("UPDATE alembic_version SET version_num = '9999'")
    assert runner.fail("migrate").startswith("The database schema is newer than this version.")
    path.write_text("no database")
    assert read_schema_revision(path) is None
    assert runner.fail("migrate").startswith(f"The database {path} cannot be migrated: ")
