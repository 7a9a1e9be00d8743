"""`tollkeeper models` lists what can be asked for, and asks nobody for it."""

import os
from pathlib import Path

import pytest

from cli.keyboard import Keyboard

CATALOG = """
default = "fast"
closed = true
[providers.groq]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
[providers.offline]
kind = "echo"
[models.spare]
provider = "offline"
model = "offline"
[models.fast]
provider = "groq"
aliases = ["quick", "llama"]
"""


@pytest.fixture
def offline(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Keyboard:
    """A keyboard in an environment without any provider."""
    for name in list(os.environ):
        if name.upper().startswith(("OPENAI_", "ANTHROPIC_", "OLLAMA_", "TOLLKEEPER_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Keyboard(sqlite_url, monkeypatch, capsys)


def listed(keyboard: Keyboard) -> list[list[str]]:
    return [line.split() for line in keyboard.do("models").splitlines()[1:]]


def test_the_models_of_the_catalog_are_listed_with_who_serves_them(
    offline: Keyboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "catalog.toml").write_text(CATALOG)
    monkeypatch.setenv("TOLLKEEPER_CATALOG", str(tmp_path / "catalog.toml"))
    assert listed(offline) == [["fast", "groq", "quick,", "llama"], ["spare", "offline"]]


def test_the_models_of_every_provider_of_the_environment_are_listed(
    offline: Keyboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-of-nobody")
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://127.0.0.1:9")
    models = listed(offline)
    assert models[0] == ["gpt-4o-mini", "openai"]
    for model in (["gpt-4o", "openai"], ["claude-haiku-4-5", "anthropic"], ["llama3.2", "ollama"]):
        assert models.count(model) == 1, model


def test_without_a_provider_there_is_the_echo(offline: Keyboard) -> None:
    assert listed(offline) == [["echo", "echo"]]


def test_with_ask_openai_is_asked(offline: Keyboard, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "OPENAI_API_KEY" in offline.refused("models", "--ask")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert "cannot be reached" in offline.refused("models", "--ask")
