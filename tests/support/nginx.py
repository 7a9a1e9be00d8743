"""An nginx with the configuration of `deploy/nginx` in front of servers of the tests."""

import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from journeys.support.processes import ReservedPort

NGINX_IS_MISSING = "nginx not found"
CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx"
STOPS_WITHIN_S = 10.0


class Nginx:
    """A running nginx. `port` is its port for the API."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self._folder = folder

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def access_log(self) -> str:
        return (self._folder / "access.log").read_text()

    @property
    def error_log(self) -> str:
        return (self._folder / "error.log").read_text()


@contextmanager
def nginx(nodes: Sequence[int]) -> Iterator[Nginx]:
    """Start an nginx in front of these two ports of 127.0.0.1.

    Where the program is missing, the test is skipped; in CI it fails.
    """
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(NGINX_IS_MISSING, pytrace=False)
        pytest.skip(f"{NGINX_IS_MISSING}: apt-get install nginx")
    port, grafana_port = ReservedPort(), ReservedPort()
    with tempfile.TemporaryDirectory(prefix="tk-nginx-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx gives up the rights of root
        main = _write_configuration(folder, nodes, port.number, grafana_port.number)
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen([program, "-c", str(main), "-g", "daemon off;"], stdout=output, stderr=output)
        try:
            _wait_until_it_answers(process, port.number, folder)
            yield Nginx(port.number, folder)
        finally:
            process.terminate()
            process.wait(STOPS_WITHIN_S)
            port.free()
            grafana_port.free()


def _write_configuration(folder: Path, nodes: Sequence[int], port: int, grafana_port: int) -> Path:
    """Copy the configuration with ports and paths of the test, each of which it must name. Returns the main file."""
    shutil.copytree(CONFIGURATION, folder / "conf")
    replaced = {
        "/tmp/": f"{folder}/",
        "/dev/stderr": f"{folder}/error.log",
        "/dev/stdout": f"{folder}/access.log",
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "listen 3000;": f"listen 127.0.0.1:{grafana_port};",
        "api-1:8000": f"127.0.0.1:{nodes[0]}",
        "api-2:8000": f"127.0.0.1:{nodes[1]}",
        "worker_processes auto;": "worker_processes 1;",
    }
    files = sorted((folder / "conf").iterdir())
    for old, new in replaced.items():
        assert any(old in file.read_text() for file in files), old
        for file in files:
            file.write_text(re.sub(re.escape(old), new, file.read_text()))
    return folder / "conf" / "nginx.conf"


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    deadline = time.monotonic() + STOPS_WITHIN_S
    url = f"http://127.0.0.1:{port}/health/live"
    while True:
        with suppress(OSError), urllib.request.urlopen(url, timeout=STOPS_WITHIN_S):
            return
        assert process.poll() is None, (folder / "output").read_text()
        assert time.monotonic() < deadline, (folder / "output").read_text()
        time.sleep(0.02)
