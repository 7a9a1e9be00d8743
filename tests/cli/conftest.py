"""Runners of commands, on each of the two databases."""

from pathlib import Path

import pytest

from support.command_runner import CommandRunner


@pytest.fixture
def runner(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandRunner:
    monkeypatch.chdir(tmp_path)
    return CommandRunner(database_url, monkeypatch, capsys)


@pytest.fixture
def acme(runner: CommandRunner) -> CommandRunner:
    """A runner on a database with the tenant `acme` and its users ada and bob."""
    runner.create_users()
    return runner
