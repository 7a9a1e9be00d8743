"""What `tollkeeper serve` prints when it starts."""

import os
import shlex
import socket
from contextlib import nullcontext
from pathlib import Path

import pytest

from support.command_runner import CommandRunner
from tollkeeper.api.console import read_bundle
from tollkeeper.cli import first_run, serving
from tollkeeper.cli.first_run import MEMBER, OPERATOR, PASSWORDS_FILE


@pytest.fixture
def not_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Makes `serve` print its addresses without binding them: not every machine has IPv6."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(serving, "_bind", lambda _: nullcontext([socket.socket()]))
    monkeypatch.setattr(serving, "_run", lambda _settings, _parts, listeners, reload: listeners[0].close())
    monkeypatch.setenv("TOLLKEEPER_SIGNING_SECRET", "0f1e2d3c4b5a69788796a5b4c3d2e1f0-serving")
    monkeypatch.setenv("TOLLKEEPER_DATA_KEY", "9a8b7c6d5e4f30211203f4e5d6c7b8a9-serving")


@pytest.mark.usefixtures("not_bound")
@pytest.mark.parametrize(
    ("host", "address", "url"),
    [
        pytest.param("::1", "http://[::1]:8021", "http://[::1]:8021", id="IPv6"),
        pytest.param("127.0.0.1", "http://127.0.0.1:8021", "http://127.0.0.1:8021", id="IPv4"),
        pytest.param("::", "http://[::]:8021", "http://[::1]:8021", id="all of IPv6"),
        pytest.param("0.0.0.0", "http://0.0.0.0:8021", "http://127.0.0.1:8021", id="all of IPv4"),
    ],
)
def test_the_printed_address_and_commands_contain_valid_urls(
    runner: CommandRunner, host: str, address: str, url: str
) -> None:
    """Not every client can call the address that stands for all."""
    output = runner.run("serve", "--first-run", "--host", host, "--port", "8021")
    first, second, *_ = output.splitlines()
    assert first == f"Tollkeeper listens on {address} (interactive docs at {url}/docs)."
    assert second.startswith(f"Process {os.getpid()}: SIGHUP ")
    assert (f"The console, for a browser: {url}/console" in output) is (read_bundle() is not None)
    login, *others = [line for line in output.splitlines() if line.startswith(("export TOKEN=", "curl "))]
    lines = [login.removeprefix('export TOKEN="$(').removesuffix('"'), *others]
    urls = [word for line in lines for word in shlex.split(line) if word.startswith("http")]
    assert urls == [f"{url}/auth/login", f"{url}/ai/query", f"{url}/me/quota"]


@pytest.mark.usefixtures("not_bound")
def test_ipv6_urls_in_the_printed_commands_are_quoted_for_the_shell(runner: CommandRunner) -> None:
    output = runner.run("serve", "--first-run", "--host", "::1", "--port", "8021")
    _, *lines = output.splitlines()
    assert [line.count("'http://[::1]:8021'") for line in lines if "$" in line or line.startswith("curl")] == [1, 1, 1]


@pytest.mark.usefixtures("not_bound")
def test_without_a_terminal_the_first_passwords_are_in_a_file_of_their_owner(
    runner: CommandRunner, tmp_path: Path
) -> None:
    """Beside the SQLite database, or in the home directory. A file of an earlier try is replaced."""
    path = (Path(runner.url.removeprefix("sqlite:///")).parent if "sqlite" in runner.url else tmp_path) / PASSWORDS_FILE
    path.write_text("from an earlier try")
    output = runner.run("serve", "--first-run")
    assert f"The passwords are in {path}." in output
    assert path.stat().st_mode & 0o777 == 0o600
    passwords = dict(line.split() for line in path.read_text().splitlines())
    assert list(passwords) == [OPERATOR, MEMBER]
    assert not any(password in output for password in passwords.values())


@pytest.mark.usefixtures("not_bound")
def test_no_account_is_created_when_the_first_passwords_cannot_be_written(
    runner: CommandRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(first_run, "passwords_path", lambda _: tmp_path / "absent" / PASSWORDS_FILE)
    with socket.socket() as listener:
        monkeypatch.setattr(serving, "_bind", lambda _: nullcontext([listener]))
        assert "The first passwords cannot be written to " in runner.fail("serve", "--first-run")
    assert runner.query("SELECT id FROM users") == []
