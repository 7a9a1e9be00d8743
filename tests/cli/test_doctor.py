"""`tollkeeper doctor` names what keeps an installation from serving, and changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from journeys.support.processes import ReservedPort
from support.command_runner import CommandRunner
from support.redis_servers import RedisServer, wheel_binary
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
    """The state of each check, and what is printed about it."""
    printed = json.loads(runner.invoke("doctor", "--json", *arguments).out)
    return {one["check"]: (one["state"], " ".join(filter(None, (one["detail"], one["advice"])))) for one in printed}


def test_a_healthy_installation_passes_every_check(healthy: CommandRunner) -> None:
    result = healthy.invoke("doctor")
    assert (result.code, result.err) == (0, "")
    assert "failed" not in result.out
    found = findings(healthy, "--ask")
    state, text = found["providers"]
    assert (state, text.startswith("No provider is configured: the offline echo provider answers. Set")) == (
        "warning",
        True,
    )
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


def test_settings_that_weaken_the_server_are_found(healthy: CommandRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(healthy)
    assert "metrics token" not in found
    assert found["limits"][0] == found["disk"][0] == "ok"
    monkeypatch.setenv("TOLLKEEPER_METRICS_TOKEN", "short")
    monkeypatch.setenv("TOLLKEEPER_WORKERS", "2")
    found = findings(healthy)
    assert found["metrics token"][0] == "warning"
    assert (found["limits"][0], "TOLLKEEPER_LIMITS_STORE" in found["limits"][1]) == ("failed", True)
    monkeypatch.setenv("TOLLKEEPER_LIMITS_STORE", "redis://127.0.0.1:1/0")
    state, detail = findings(healthy)["limits"]
    assert (state, "does not answer" in detail) == ("warning", True)


@pytest.mark.prove_only_on_postgres
def test_without_its_package_the_store_of_the_limits_names_what_to_install(
    healthy: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLKEEPER_LIMITS_STORE", "redis://:hidden@127.0.0.1:1/0")
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    state, detail = findings(healthy)["limits"]
    assert (state, "hidden" in detail) == ("failed", False)
    assert detail.startswith("TOLLKEEPER_LIMITS_STORE needs a package."), detail
    assert "pip install 'redis" in detail
    assert healthy.invoke("doctor").code == 1


@pytest.mark.prove_only_on_postgres
def test_a_redis_that_refuses_the_password_is_a_mistake_of_the_settings(
    healthy: CommandRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = ReservedPort()
    redis = RedisServer(wheel_binary(), port.number, tmp_path, "--requirepass", "right").start()
    try:
        for login in ("", ":wrong@", "nobody:right@"):
            monkeypatch.setenv("TOLLKEEPER_LIMITS_STORE", f"redis://{login}127.0.0.1:{port.number}/0")
            state, detail = findings(healthy)["limits"]
            assert (state, "refuses the login" in detail, "right" in detail) == ("failed", True, False)
        monkeypatch.setenv("TOLLKEEPER_LIMITS_STORE", f"redis://:right@127.0.0.1:{port.number}/0")
        assert findings(healthy)["limits"][0] == "ok"
    finally:
        redis.stop()
        port.free()


@pytest.mark.parametrize("command", ["doctor", "models"])
def test_a_closed_pipe_ends_a_command_quietly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:
    """As with `tollkeeper doctor | head -0`."""
    monkeypatch.setenv("TOLLKEEPER_DATABASE_URL", f"sqlite:///{tmp_path}/absent.db")
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "tollkeeper", command], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_a_lost_data_key_is_reported_and_none_is_made_in_its_place(
    healthy: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOLLKEEPER_DATA_KEY")
    if not healthy.url.startswith("sqlite:///"):
        return
    key_file = Path(healthy.url.removeprefix("sqlite:///")).with_name("data-key")
    assert findings(healthy)["data key"] == ("ok", "the server creates it at its first start")
    healthy.run("tenant", "create", "acme")
    key = key_file.read_text()
    key_file.unlink()
    result = healthy.invoke("tenant", "create", "other")
    assert (result.code, "Restore the file from a backup, or set TOLLKEEPER_DATA_KEY" in result.err) == (2, True)
    state, detail = findings(healthy)["data key"]
    assert (state, "Restore the file" in detail) == ("failed", True)
    assert not key_file.exists()
    key_file.write_text(key)
    key_file.chmod(0o600)
    healthy.run("tenant", "create", "other")


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
