"""A keyboard on each of the two databases."""

from pathlib import Path

import pytest

from cli.keyboard import Keyboard


@pytest.fixture
def keyboard(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Keyboard:
    monkeypatch.chdir(tmp_path)
    return Keyboard(database_url, monkeypatch, capsys)


@pytest.fixture
def acme(keyboard: Keyboard) -> Keyboard:
    """The same, with people in the database."""
    keyboard.people()
    return keyboard
