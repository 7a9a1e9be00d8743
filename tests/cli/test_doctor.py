"""`tollkeeper doctor` names what keeps an installation from serving, and changes nothing."""

import json
import os
from pathlib import Path

import pytest

from support.command_runner import CommandRunner
from tollkeeper.private_files import secure_sqlite_files


@pytest.fixture
def healthy(runner: CommandRunner, monkeypatch: pytest.MonkeyPatch) -> CommandRunner:
    for name in list(os.environ):
        if name.upper().startswith(("OPENAI_", "ANTHROPIC_", "OLLAMA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TOLLKEEPER_SIGNING_SECRET", "0f1e2d3c4b5a69788796a5b4c3d2e1f0-doctor")
    if runner.url.startswith("sqlite:///"):
        secure_sqlite_files(Path(runner.url.removeprefix("sqlite:///")))  # as `serve` does
    return runner


def findings(runner: CommandRunner, *arguments: str) -> dict[str, tuple[str, str]]:
    printed = json.loads(runner.invoke("doctor", "--json", *arguments).out)
    return {finding["check"]: (finding["state"], finding["detail"]) for finding in printed}


def test_a_healthy_installation_passes_every_check(healthy: CommandRunner) -> None:
    result = healthy.invoke("doctor")
    assert (result.code, result.err) == (0, "")
    assert "failed" not in result.out
    found = findings(healthy, "--ask")
    assert found["providers"] == ("warning", "No provider is configured: the offline echo provider answers.")
    assert found["ask echo"][0] == "ok"
    assert {"settings", "signing secret", "database", "writable", "data key", "clock", "files"} <= found.keys()


def test_a_failed_check_names_its_cause_and_gives_exit_code_1(
    healthy: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy.query("UPDATE alembic_version SET version_num = '0001'")
    monkeypatch.setenv("TOLLKEEPER_SIGNING_SECRET", "short")
    result = healthy.invoke("doctor")
    assert result.code == 1
    found = findings(healthy)
    assert "tollkeeper migrate" in found["database"][1]
    assert found["signing secret"][0] == "failed"
    assert "clock" not in found, "it needs the database"
    assert "short" not in result.out


def test_a_data_key_that_does_not_open_the_database_is_found(
    healthy: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy.run("tenant", "create", "acme")
    assert findings(healthy)["data key"][0] == "ok"
    monkeypatch.setenv("TOLLKEEPER_DATA_KEY", "another-key-of-at-least-32-random-bytes-0123456789")
    assert findings(healthy)["data key"][0] == "failed"


def test_a_secret_file_that_others_can_read_is_found(healthy: CommandRunner, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("OPENAI_MODEL=m\n")
    env_file.chmod(0o644)
    state, detail = findings(healthy)["files"]
    assert (state, "chmod 600 .env" in detail) == ("failed", True)


def test_a_database_that_does_not_exist_is_not_created(healthy: CommandRunner, tmp_path: Path) -> None:
    absent = tmp_path / "data" / "absent.db"
    other = CommandRunner(f"sqlite:///{absent}", healthy._monkeypatch, healthy._capsys)
    found = findings(other)
    assert (found["database"][0], "tollkeeper migrate" in found["database"][1]) == ("failed", True)
    assert found["disk"][0] != "failed"
    assert not absent.parent.exists()
