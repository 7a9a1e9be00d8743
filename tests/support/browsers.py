"""Journeys through the console in the system's Chromium, driven by playwright-core from `console/node_modules`. All
journeys of a run share one browser.
"""

import fcntl
import json
import os
import shutil
import subprocess
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import psutil
import pytest

from support.deadlines import TEST_DEADLINE_S

CONSOLE = Path(__file__).parents[2] / "console"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
DESCRIBED = "driver.json"
STOPS_WITHIN_S = 60.0


def require_console() -> str:
    """The path of the browser. Where it, Node or the built console is missing, the test is skipped; in CI it fails."""
    require_node()
    if not (CONSOLE / "dist" / "index.html").is_file():
        _skip("the console was not built: make console")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        _skip("no Chromium is installed, so nothing looks at the console. On Debian: apt-get install chromium")
    return browser


def require_node() -> dict[str, str]:
    """The environment of commands of Node, whose packages are installed. Else the test is skipped; in CI it fails."""
    environment = dict(os.environ)
    own = CONSOLE / ".node" / "bin"
    if own.is_dir():
        environment["PATH"] = f"{own}:{environment['PATH']}"
    if shutil.which("node", path=environment["PATH"]) is None or not (CONSOLE / "node_modules").is_dir():
        _skip("Node or the packages of the console are missing: make console")
    return environment


def _skip(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)


def share_browser(folder: Path) -> str:
    """The URL of the browser of a run, which the first worker that needs it starts. `stop_browser` ends it."""
    browser, environment = require_console(), require_node()
    folder.mkdir(exist_ok=True)
    described = folder / DESCRIBED
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not described.exists():
            described.write_text(_start(folder, browser, environment))
    return f"http://127.0.0.1:{json.loads(described.read_text())['port']}"


def _start(folder: Path, browser: str, environment: dict[str, str]) -> str:
    """Start the driver, which outlives this worker. Returns what it prints: its process id and its port."""
    errors = folder / "errors"
    command = ("sh", "-c", 'node e2e/driver.mjs "$0" 2>"$1" &', browser, str(errors))
    with subprocess.Popen(
        command, cwd=CONSOLE, env=environment, stdout=subprocess.PIPE, start_new_session=True, text=True
    ) as shell:
        assert shell.stdout is not None
        line = shell.stdout.readline()
    assert line, errors.read_text()
    return line


def stop_browser(folder: Path) -> None:
    """End the browser of a run, if one was started."""
    described = folder / DESCRIBED
    if not described.exists():
        return
    with suppress(psutil.NoSuchProcess):
        driver = psutil.Process(json.loads(described.read_text())["pid"])
        driver.terminate()
        driver.wait(STOPS_WITHIN_S)


async def run_journey(browser: str, name: str, folder: Path, **given: Any) -> None:
    """Run `console/e2e/NAME.mjs` in a context of its own. It fails where a script fails, a resource is blocked, or axe
    finds a violation; a picture of the page is then in `folder`.
    """
    document = {"folder": str(folder), "timeout": TEST_DEADLINE_S * 1_000 / 2} | given
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as http,
        http.post(f"{browser}/{name}", json=document) as response,
    ):
        if response.status != HTTPStatus.OK:
            pytest.fail(await response.text(), pytrace=False)
