"""The command of the image with a root filesystem that is read-only, in a mount namespace instead of a container."""

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from journeys.support.processes import ReservedPort, clean_environment
from journeys.support.server import SECRET
from support.deadlines import TEST_DEADLINE_S
from support.deployment import dockerfile_steps, image_command, image_variables
from support.health import wait_until_healthy

NAMESPACE = ("unshare", "--mount", "sh", "-c")
READ_ONLY = "mount --make-rprivate / && mount --bind / / && {writable} && mount -o remount,bind,ro /"


def read_only(folders: list[Path]) -> str:
    """The shell commands after which only these folders can be written to."""
    return READ_ONLY.format(writable=" && ".join(f"mount --bind {folder} {folder}" for folder in folders))


@pytest.fixture
def writable(tmp_path: Path) -> list[Path]:
    """The folders that stand for /data and /tmp. Skips where no namespace can be made."""
    folders = [tmp_path / "data", tmp_path / "tmp"]
    for folder in folders:
        folder.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    tried = f"{read_only(folders)} && ! touch {tmp_path}/file 2>/dev/null && touch {folders[0]}/file"
    made = subprocess.run([*NAMESPACE, tried], capture_output=True, text=True, timeout=30, check=False)
    if made.returncode != 0:
        pytest.skip(f"no mount namespace can be made here: {made.stderr}")
    (folders[0] / "file").unlink()
    return folders


@pytest.fixture
def port() -> Iterator[int]:
    reserved = ReservedPort()
    yield reserved.number
    reserved.free()


@pytest.mark.exhaustive
@pytest.mark.long
def test_the_image_writes_only_to_data_and_tmp_is_healthy_and_stops_on_sigterm(
    tmp_path: Path, writable: list[Path], port: int
) -> None:
    ours = {
        name: re.sub("^/data", str(writable[0]), value)
        for name, value in image_variables().items()
        if name not in ("PATH", "TOLLKEEPER_HOST")
    }
    environment = clean_environment(ours) | {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "TMPDIR": str(writable[1]),
        "TOLLKEEPER_PORT": str(port),
        "TOLLKEEPER_SIGNING_SECRET": SECRET,
        "TOLLKEEPER_BCRYPT_ROUNDS": "4",
    }
    command = f"{read_only(writable)} && cd {tmp_path} && {image_command()[2]}"
    with (tmp_path / "output").open("wb") as output:
        server = subprocess.Popen([*NAMESPACE, command], env=environment, stdout=output, stderr=output)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", server)
        subprocess.run(health_check(), env=environment, check=True, timeout=TEST_DEADLINE_S)
        passwords = dict(line.split() for line in (writable[0] / "first-passwords").read_text().splitlines())
        login = f"username=member@example.com&password={passwords['member@example.com']}".encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/auth/login", login, TEST_DEADLINE_S) as response:
            assert json.load(response)["access_token"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(TEST_DEADLINE_S) == 0, (tmp_path / "output").read_text()
    finally:
        server.kill()
        server.wait(TEST_DEADLINE_S)
    assert (writable[0] / "tollkeeper.db").exists()
    assert "Traceback" not in (tmp_path / "output").read_text()


def health_check() -> list[str]:
    (check,) = [arguments for name, arguments in dockerfile_steps() if name == "HEALTHCHECK"]
    command: list[str] = json.loads(check.partition("CMD ")[2])
    return command
