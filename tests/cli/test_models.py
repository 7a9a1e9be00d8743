"""`tollkeeper models` lists the models without calling a provider, unless with `--ask`."""

import os
from pathlib import Path

import pytest

from support.command_runner import CommandRunner

CATALOG = """
default = "fast"
closed = true
[providers.groq]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
[providers.no_providers]
kind = "echo"
[models.spare]
provider = "no_providers"
model = "no_providers"
[models.fast]
provider = "groq"
aliases = ["quick", "llama"]
"""


@pytest.fixture
def no_providers(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandRunner:
    """A runner in an environment without any provider."""
    for name in list(os.environ):
        if name.upper().startswith(("OPENAI_", "ANTHROPIC_", "OLLAMA_", "TOLLKEEPER_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return CommandRunner(sqlite_url, monkeypatch, capsys)


def listed(runner: CommandRunner) -> list[list[str]]:
    return [line.split() for line in runner.run("models").splitlines()[1:]]


def test_the_models_of_the_catalog_are_listed_with_their_providers(
    no_providers: CommandRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "catalog.toml").write_text(CATALOG)
    monkeypatch.setenv("TOLLKEEPER_CATALOG", str(tmp_path / "catalog.toml"))
    assert listed(no_providers) == [["fast", "groq", "quick,", "llama"], ["spare", "no_providers"]]


def test_the_models_of_every_configured_provider_are_listed(
    no_providers: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-invalid")
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://127.0.0.1:9")
    models = listed(no_providers)
    assert models[0] == ["gpt-4o-mini", "openai"]
    for model in (["gpt-4o", "openai"], ["claude-haiku-4-5", "anthropic"], ["llama3.2", "ollama"]):
        assert models.count(model) == 1, model


def test_without_a_provider_the_echo_model_is_listed(no_providers: CommandRunner) -> None:
    assert listed(no_providers) == [["echo", "echo"]]


def test_with_ask_the_models_are_requested_from_openai(
    no_providers: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "OPENAI_API_KEY" in no_providers.fail("models", "--ask")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-invalid")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert "cannot be reached" in no_providers.fail("models", "--ask")
