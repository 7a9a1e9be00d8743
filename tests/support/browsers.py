"""Journeys through the console in the system's Chromium, driven by playwright-core from `console/node_modules`."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from support.deadlines import TEST_DEADLINE_S

CONSOLE = Path(__file__).parents[2] / "console"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


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


async def run_journey(name: str, folder: Path, **given: Any) -> None:
    """Run `console/e2e/NAME.mjs`. It fails where a script fails, a resource is blocked, or axe finds a violation."""
    environment = require_node()
    browser = require_console()
    document = {"browser": browser, "folder": str(folder), "timeout": TEST_DEADLINE_S * 1_000 / 2} | given
    process = await asyncio.create_subprocess_exec(
        "node",
        f"e2e/{name}.mjs",
        cwd=CONSOLE,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate(json.dumps(document).encode())
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, errors.decode()
    assert output == b"ok\n"
