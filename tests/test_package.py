"""The wheel works in a new environment, in an empty folder, without the checkout."""

import json
import subprocess
import sys
import sysconfig
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from journeys.support.processes import ReservedPort, clean_environment
from support.deadlines import TEST_DEADLINE_S
from support.health import wait_until_healthy

ROOT = Path(__file__).parents[1]
LOG_IN = "username=member%40example.com&password="


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with the wheel. It borrows the dependencies of the present one."""
    folder = tmp_path_factory.mktemp("package")
    run(sys.executable, "-m", "hatchling", "build", "-d", str(folder), cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"))
    packages = sysconfig.get_path("purelib", "venv", {"base": str(folder / "venv")})
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", packages, str(wheel))
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin"


def run(*command: str, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in clean_environment({}).items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TEST_DEADLINE_S, check=False
    )
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.exhaustive
@pytest.mark.long
def test_the_wheel_serves_after_a_first_run_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    python = str(installed / "python")
    assert run(python, "-m", "tollkeeper", "--version", cwd=tmp_path).startswith("tollkeeper ")
    found = run(python, "-c", "import tollkeeper; print(tollkeeper.__file__)", cwd=tmp_path)
    assert Path(found.strip()).is_relative_to(installed.parent)
    port = ReservedPort()
    environment = {name: value for name, value in clean_environment({}).items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [python, "-m", "tollkeeper", "serve", "--first-run", "--port", str(port.number)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port.number}"
    try:
        wait_until_healthy(url, server)
        passwords = (tmp_path / "data" / "first-passwords").read_text().split()
        form = (LOG_IN + urllib.parse.quote(passwords[3])).encode()
        with urllib.request.urlopen(f"{url}/auth/login", form, timeout=TEST_DEADLINE_S) as response:
            assert json.load(response)["access_token"]
    finally:
        server.kill()
        server.wait(TEST_DEADLINE_S)
        port.free()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
