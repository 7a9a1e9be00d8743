"""The ways to install that the README shows beside make: `uvx`, and the steps of the Dockerfile.

The steps run on this machine instead of in a container: the same commands, with folders of the test's own.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from journeys.support.processes import ReservedPort, clean_environment
from support.deployment import dockerfile_steps, image_command
from support.health import wait_until_healthy

ROOT = Path(__file__).parents[1]
INSTALL_DEADLINE_S = 600.0
UVX = re.compile(r"^uvx --from \. (.*)$", re.MULTILINE)


class Machine:
    """A folder that stands for a new machine, with pip in its PATH. `/build`, `/venv` and `data` are in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.build = folder / "build"
        self.build.mkdir()
        (folder / "data").mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(folder / "python")], check=True, timeout=INSTALL_DEADLINE_S)
        self._environment = {name: value for name, value in clean_environment({}).items() if name != "PYTHONPATH"}
        self._environment |= {
            "PATH": f"{folder / 'python' / 'bin'}:{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
            "UV_CACHE_DIR": str(folder / "cache"),
            "TOLLKEEPER_DATABASE_URL": f"sqlite:///{folder}/data/tollkeeper.db",
        }
        self._environment.pop("VIRTUAL_ENV", None)

    def run(self, command: str) -> None:
        done = subprocess.run(
            ["sh", "-c", command.replace("/venv", str(self.folder / "venv"))],
            cwd=self.build,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done

    def copy(self, *names: str, target: str) -> None:
        """Copy files of the checkout into a folder of `/build`, or a folder as it; without what .dockerignore names."""
        for name in names:
            source, folder = ROOT / name, self.build / target
            if source.is_dir():
                shutil.copytree(source, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "build", ".node"))
            else:
                folder.mkdir(exist_ok=True)
                shutil.copy(source, folder)

    @contextmanager
    def serving(self, command: str) -> Iterator[str]:
        """Run a command that serves. Yields its URL, and ends it as Ctrl-C does."""
        port = ReservedPort()
        environment = self._environment | {"TOLLKEEPER_PORT": str(port.number)}
        server = subprocess.Popen(
            ["sh", "-c", command], cwd=self.build, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        url = f"http://127.0.0.1:{port.number}"
        try:
            wait_until_healthy(url, server, INSTALL_DEADLINE_S)
            yield url
        finally:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(INSTALL_DEADLINE_S)
            port.free()


@pytest.mark.prove_only
def test_the_steps_of_the_dockerfile_and_uvx_install_a_server(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    steps = list(dockerfile_steps())
    last_stage = next(at for at, (name, rest) in enumerate(steps) if name == "FROM" and " AS " not in rest)
    for step, rest in steps[:last_stage]:
        if step == "COPY":
            *names, target = rest.split()
            machine.copy(*names, target=target)
        elif step == "RUN":
            machine.run(rest)
    assert image_command()[:2] == ["sh", "-c"]
    with machine.serving(image_command()[2]) as url:
        assert urllib.request.urlopen(f"{url}/health/ready", timeout=30).status == 200

    machine.run("pip install uv")
    (arguments,) = UVX.findall((ROOT / "README.md").read_text())
    with machine.serving(f"exec uvx --from . {arguments}") as url:
        assert urllib.request.urlopen(f"{url}/health/live", timeout=30).status == 200
