"""Facts about the project as a whole."""

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 300
MAX_FUNCTION_LINES = 70
"""Of a module: about 300."""


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_tracked_file_names_a_package_registry() -> None:
    parts = ["py" + "pi\\.org", "python" + "hosted", "index" + "-url", "find" + "-links", "registry\\." + "npmjs"]
    hosts = re.compile("|".join(parts))
    for path in tracked():
        assert not hosts.search(path.read_text(errors="ignore")), path


def test_the_locks_name_no_host_and_hash_everything() -> None:
    for name, least in (("requirements.lock", 30), ("requirements-runtime.lock", 30), ("requirements-build.lock", 3)):
        text = (ROOT / name).read_text()
        assert "://" not in text
        requirements = re.findall(r"^[a-z0-9][^\s=]*==\S+", text, re.MULTILINE)
        assert len(requirements) > least
        assert text.count("--hash=sha256:") >= len(requirements)


def test_the_locks_of_the_console_name_no_registry_and_hash_everything() -> None:
    node = (ROOT / "requirements-node.lock").read_text()
    assert "://" not in node
    assert node.count("--hash=sha256:") > 3
    lock = json.loads((ROOT / "console" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert len(packages) > 50
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert package["integrity"].startswith("sha512-"), name
        for optional in package.get("optionalDependencies", ()):  # `npm ci` refuses a lock that lacks one
            assert any(f"{folder}node_modules/{optional}" in packages for folder in ("", f"{name}/")), (name, optional)


def test_the_other_locks_agree_with_the_whole_one() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9][^\s=]*==[^\s;]+)", (ROOT / name).read_text(), re.MULTILINE))

    for name in ("requirements-runtime.lock", "requirements-build.lock"):
        assert pins(name) <= pins("requirements.lock")


def test_every_package_that_was_asked_for_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    required = {
        "fastapi",
        "uvicorn",
        "python-jose",
        "libpass",
        "bcrypt",
        "sqlmodel",
        "slowapi",
        "openai",
        "pytest",
        "freezegun",
    }
    declared = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[\[><=]", requirement)[0] for requirement in declared}
    assert required <= names


def test_the_top_level_is_the_one_that_was_asked_for() -> None:
    for name in ("src", "tests", "alembic", "scripts", "Dockerfile", "pyproject.toml", ".env.example", "Makefile"):
        assert (ROOT / name).exists(), name


def test_files_and_functions_stay_small() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= MAX_LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{path}: {node.name}"


def test_the_tests_that_a_mark_excepts_exist() -> None:
    """A mark that names a test by a former name would keep the test from PostgreSQL in `make check`."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text()
        for excepted in re.findall(r"prove_only_on_postgres\(\s*but=\(([^)]*)\)", text):
            for name in re.findall(r'"(\w+)"', excepted):
                assert f"def {name}(" in text, f"{path}: {name}"


@pytest.mark.parametrize("moved", [True, False])
def test_a_moved_folder_is_set_up_again_and_an_unmoved_one_is_not(tmp_path: Path, moved: bool) -> None:
    """The scripts of an environment name their interpreter by its absolute path; so no target uses one of ours."""
    for name in ("requirements.lock", "pyproject.toml", "scripts/setup.sh", "Makefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").write_text(f"{tmp_path}/before\n" if moved else f"{tmp_path}\n")
    planned = subprocess.run(
        ["make", "--no-print-directory", "-n", "run"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert ("scripts/setup.sh" in planned) is moved
    assert ".venv/bin/python -m tollkeeper serve --first-run" in planned
