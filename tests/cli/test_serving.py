"""What `serve` says when it starts."""

import shlex
import socket

import pytest

from cli.keyboard import Keyboard
from tollkeeper.cli import serving


@pytest.fixture
def not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that goes as far as saying where it listens: not every machine has each address."""
    monkeypatch.setattr(serving, "_bind", lambda _: socket.socket())
    monkeypatch.setattr(serving, "_run", lambda _settings, _parts, listener, reload: listener.close())
    monkeypatch.setenv("TOLLKEEPER_SIGNING_SECRET", "0f1e2d3c4b5a69788796a5b4c3d2e1f0-serving")


@pytest.mark.usefixtures("not_served")
@pytest.mark.parametrize(
    ("host", "url"), [("::1", "http://[::1]:8021"), ("127.0.0.1", "http://127.0.0.1:8021")], ids=["IPv6", "IPv4"]
)
def test_where_it_listens_and_the_lines_to_copy_are_urls(keyboard: Keyboard, host: str, url: str) -> None:
    said = keyboard.do("serve", "--first-run", "--host", host, "--port", "8021")
    assert said.splitlines()[0] == f"Tollkeeper listens on {url} (interactive docs at /docs)."
    login, *others = [line for line in said.splitlines() if line.startswith(("TOKEN=", "curl "))]
    lines = [login.removeprefix("TOKEN=$("), *others]
    asked = [word for line in lines for word in shlex.split(line) if word.startswith("http")]
    assert asked == [f"{url}/auth/login", f"{url}/ai/query", f"{url}/me/quota"]


@pytest.mark.usefixtures("not_served")
def test_no_shell_takes_the_brackets_of_an_address_for_a_pattern(keyboard: Keyboard) -> None:
    said = keyboard.do("serve", "--first-run", "--host", "::1", "--port", "8021")
    _, *lines = said.splitlines()
    assert [line.count("'http://[::1]:8021'") for line in lines if "[" in line and "8021" in line] == [1, 1, 1]
