"""The files with which Tollkeeper is deployed, read as Docker, Compose and Kubernetes read them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from support.deadlines import TEST_DEADLINE_S
from tollkeeper.api.health import router
from tollkeeper.cli.commands import app
from tollkeeper.settings import Settings, load_settings
from tollkeeper.settings.variables import ENV_FILE
from tollkeeper.settings.warnings import setting_warnings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
HEALTH_PATHS = frozenset(route.path for route in router.routes)  # type: ignore[attr-defined]
BOOKING_S = 20.0
"""How long a stopping server may take to book what its calls have cost, after they have ended."""
SECRET_FOLDERS = ("/run/secrets/tollkeeper/", "/run/secrets/")
_DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")


def read_compose() -> dict[str, Any]:
    """docker-compose.yml with the defaults of its variables."""
    text = (ROOT / "docker-compose.yml").read_text()
    document: dict[str, Any] = yaml.safe_load(_DEFAULT.sub(r"\1", text))
    return document


def read_manifests(*folders: Path) -> list[dict[str, Any]]:
    """Each object in the YAML files of these folders, and the kustomizations among them."""
    paths = [path for folder in folders for path in sorted(folder.rglob("*.yaml"))]
    return [document for path in paths for document in yaml.safe_load_all(path.read_text())]


def create_secrets(folder: Path) -> dict[str, str]:
    """Run the script of `make docker-run` for this folder. Returns the content of each file that is in it."""
    script = DEPLOY / "compose" / "create_secrets.sh"
    subprocess.run(["sh", str(script), str(folder)], check=True, capture_output=True, timeout=30)
    return {path.name: path.read_text() for path in folder.iterdir()}


def settings_of(variables: Mapping[str, str], secrets: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a container with these variables, whose secrets are in a folder of this machine.

    Fails for a variable that is no setting, and for a value that the setting refuses.
    """
    for name in list(os.environ):
        if name.startswith("TOLLKEEPER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(secrets)
    assert not (secrets / ENV_FILE).exists()
    for name, value in variables.items():
        for folder in SECRET_FOLDERS:
            value = value.replace(folder, f"{secrets}/")
        monkeypatch.setenv(name, value)
    settings = load_settings()
    warnings = setting_warnings(settings)
    assert not warnings, warnings
    return settings


def check_deployment(url: str, user: str, password: str) -> tuple[int, str]:
    """Run the script of `make docker-test`. Returns its exit code and its output."""
    command = [sys.executable, str(ROOT / "scripts" / "check_deployment.py"), url, user]
    checked = subprocess.run(
        command, input=f"{password}\n", capture_output=True, text=True, timeout=TEST_DEADLINE_S, check=False
    )
    return checked.returncode, checked.stdout + checked.stderr


def assert_the_cli_accepts(command: list[str]) -> None:
    """Fails unless this command of Tollkeeper exists and has these options."""
    assert command[0] == "tollkeeper", command
    shown = CliRunner().invoke(app, [*command[1:], "--help"])
    assert shown.exit_code == 0, (command, shown.output)


def dockerfile_steps() -> Iterator[tuple[str, str]]:
    """Each instruction of the Dockerfile and its arguments, on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, arguments = line.partition(" ")
        yield name, re.sub(r" {2,}", " ", arguments)


def image_variables() -> dict[str, str]:
    """The variables that the Dockerfile sets."""
    (variables,) = [arguments for name, arguments in dockerfile_steps() if name == "ENV"]
    return dict(pair.split("=", 1) for pair in variables.split())


def image_command() -> list[str]:
    (command,) = [arguments for name, arguments in dockerfile_steps() if name == "CMD"]
    words: list[str] = json.loads(command)
    return words


def tollkeeper_commands(words: list[str]) -> list[list[str]]:
    """The commands of Tollkeeper in a command line, which may be a script for `sh -c`."""
    if words[:2] == ["sh", "-c"]:
        parts = [part.split() for part in re.split(r"&&|;", words[2])]
        words_of_parts = [part[1:] if part[0] == "exec" else part for part in parts]
        return [part for part in words_of_parts if part[0] == "tollkeeper"]
    return [words]
