"""What `tollkeeper serve` prints when it starts."""

import shlex
import socket

import pytest

from support.command_runner import CommandRunner
from tollkeeper.cli import serving


@pytest.fixture
def not_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `serve` print its addresses without binding them: not every machine has IPv6."""
    monkeypatch.setattr(serving, "_bind", lambda _: socket.socket())
    monkeypatch.setattr(serving, "_run", lambda _settings, _parts, listener, reload: listener.close())
    monkeypatch.setenv("TOLLKEEPER_SIGNING_SECRET", "0f1e2d3c4b5a69788796a5b4c3d2e1f0-serving")


@pytest.mark.usefixtures("not_bound")
@pytest.mark.parametrize(
    ("host", "url"), [("::1", "http://[::1]:8021"), ("127.0.0.1", "http://127.0.0.1:8021")], ids=["IPv6", "IPv4"]
)
def test_the_printed_address_and_commands_contain_valid_urls(runner: CommandRunner, host: str, url: str) -> None:
    output = runner.run("serve", "--first-run", "--host", host, "--port", "8021")
    assert output.splitlines()[0] == f"Tollkeeper listens on {url} (interactive docs at /docs)."
    login, *others = [line for line in output.splitlines() if line.startswith(("TOKEN=", "curl "))]
    lines = [login.removeprefix("TOKEN=$("), *others]
    urls = [word for line in lines for word in shlex.split(line) if word.startswith("http")]
    assert urls == [f"{url}/auth/login", f"{url}/ai/query", f"{url}/me/quota"]


@pytest.mark.usefixtures("not_bound")
def test_ipv6_urls_in_the_printed_commands_are_quoted_for_the_shell(runner: CommandRunner) -> None:
    output = runner.run("serve", "--first-run", "--host", "::1", "--port", "8021")
    _, *lines = output.splitlines()
    assert [line.count("'http://[::1]:8021'") for line in lines if "[" in line and "8021" in line] == [1, 1, 1]
