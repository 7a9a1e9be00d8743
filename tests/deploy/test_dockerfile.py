"""The Dockerfile. `test_install_lines` runs its steps."""

import fnmatch
import re
from pathlib import Path

import pytest

from support.deployment import (
    HEALTH_PATHS,
    ROOT,
    assert_the_cli_accepts,
    dockerfile_steps,
    image_command,
    image_variables,
    settings_of,
    tollkeeper_commands,
)
from tollkeeper import __version__
from tollkeeper.settings import Settings

STEPS = list(dockerfile_steps())


def arguments_of(name: str) -> list[str]:
    return [arguments for step, arguments in STEPS if step == name]


def test_both_stages_begin_with_the_same_image_of_a_named_version() -> None:
    first, last = (arguments.split()[0] for arguments in arguments_of("FROM"))
    assert first == last
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", first)


def test_every_package_is_installed_by_its_hash() -> None:
    installs = [line for line in arguments_of("RUN") if " install " in line and "install --directory" not in line]
    assert len(installs) == 3
    assert "--require-hashes" in (ROOT / "scripts" / "console.sh").read_text()
    *locked, own = installs
    assert all("--require-hashes" in line for line in locked)
    assert "--no-deps" in own
    assert own.endswith("wheels/*.whl")


def test_the_server_runs_without_rights_and_receives_signals() -> None:
    user, group = arguments_of("USER")[-1].split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000  # numbers: Kubernetes cannot tell whether a name is root
    assert image_command()[:2] == ["sh", "-c"]
    assert image_command()[2].split("&&")[-1].strip().startswith("exec tollkeeper serve")
    for command in tollkeeper_commands(image_command()):
        assert_the_cli_accepts(command)


def test_its_variables_are_settings_and_what_is_written_is_in_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = image_variables()
    ours = {name: value for name, value in variables.items() if name.startswith("TOLLKEEPER_")}
    settings = settings_of(ours, tmp_path, monkeypatch)
    assert settings.host == "0.0.0.0"
    volume = Path(*arguments_of("VOLUME"))
    assert settings.spill_folder == volume
    assert Path(variables["HOME"]) == volume  # of the first passwords, with PostgreSQL
    assert Path(*arguments_of("WORKDIR")[-1:]) / "data" == volume  # of the default database
    assert Settings.model_fields["database_url"].default == "sqlite:///data/tollkeeper.db"


def test_port_health_check_and_version_are_those_of_the_server() -> None:
    assert arguments_of("EXPOSE") == [str(Settings.model_fields["port"].default)]
    (check,) = arguments_of("HEALTHCHECK")
    (path,) = re.findall(r"\}(/[\w/]+)", check)
    assert path in HEALTH_PATHS
    (label,) = arguments_of("LABEL")
    assert f'org.opencontainers.image.version="{__version__}"' in label


def test_the_context_has_what_is_copied_and_nothing_else() -> None:
    first, *lines = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    context = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {name for line in arguments_of("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert copied == context
    for name in context:
        assert (ROOT / name).exists(), name
    for secret in (".env", "data/docker/data-key", ".git"):
        assert not any(fnmatch.fnmatch(secret, name) or secret.startswith(f"{name}/") for name in context)
