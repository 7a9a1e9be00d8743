"""`tollkeeper backup`: on SQLite a file, on PostgreSQL a sentence that names the program to use."""

from pathlib import Path

from support.command_runner import CommandRunner


def test_a_backup_is_made_of_sqlite_only(runner: CommandRunner, tmp_path: Path) -> None:
    runner.create_users()
    path = tmp_path / "copy.db"
    if runner.url.startswith("postgresql"):
        assert f"pg_dump --format=custom --file={path}" in runner.fail("backup", str(path))
        return
    printed = runner.run("backup", str(path))
    assert "checked, and on the disk" in printed
    assert "Keep a copy of TOLLKEEPER_DATA_KEY" in printed
    assert "exists" in runner.fail("backup", str(path))
    copy = CommandRunner(f"sqlite:///{path}", runner._monkeypatch, runner._capsys)
    assert "ada@example.com" in copy.run("user", "list")
