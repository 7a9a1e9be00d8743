"""A real OpenID provider as a process: node-oidc-provider, installed from its lock when it is first needed."""

import fcntl
import hashlib
import html
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from journeys.support.processes import ReservedPort
from support.deadlines import TEST_DEADLINE_S

SOURCES = Path(__file__).parents[1] / "identity_provider"
FILES = ("package.json", "package-lock.json", "provider.mjs")
INSTALLATION = Path(sys.prefix) / "test-identity-provider"
"""In the environment, so that it goes with it."""
INSTALL_S = 300
IS_MISSING = "the real identity provider is missing"
"""At the begin of the reason for which its tests are skipped."""
MAX_STEPS = 12


class ProviderMissing(Exception):
    """There is no Node.js, or its packages cannot be installed."""


def install() -> Path:
    """Returns the folder with the provider. Several processes may call this at once. Raises ProviderMissing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise ProviderMissing(f"{IS_MISSING}: install Node.js 20 or newer, with npm")
    INSTALLATION.mkdir(exist_ok=True)
    wanted = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in FILES)).hexdigest()
    with (INSTALLATION / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = INSTALLATION / ".ready"
        if not ready.exists() or ready.read_text() != wanted:
            for name in FILES:
                shutil.copyfile(SOURCES / name, INSTALLATION / name)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            try:
                subprocess.run(command, cwd=INSTALLATION, check=True, capture_output=True, timeout=INSTALL_S)
            except (subprocess.SubprocessError, OSError):
                raise ProviderMissing(f"{IS_MISSING}: npm ci failed in {INSTALLATION}") from None
            ready.write_text(wanted)
    return INSTALLATION


class RealProvider:
    """A running provider."""

    def __init__(self, output: Path) -> None:
        folder = install()
        self._port = ReservedPort()
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [shutil.which("node") or "node", "provider.mjs", str(self._port.number)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self._port.number}"

    async def register(self, http: aiohttp.ClientSession, redirect_uri: str, algorithm: str) -> dict[str, Any]:
        """Register a client (OpenID Connect Dynamic Client Registration 1.0). Returns its id and secret."""
        document = {"redirect_uris": [redirect_uri], "id_token_signed_response_alg": algorithm}
        async with http.post(f"{self.issuer}/reg", json=document) as response:
            assert response.status == 201, await response.text()
            registered: dict[str, Any] = await response.json()
            return registered

    async def log_in(self, http: aiohttp.ClientSession, url: str, name: str) -> str:
        """Fill in the provider's pages as a person does: login, then consent. Returns where the browser is sent back
        to.
        """
        form: dict[str, str] | None = None
        for _ in range(MAX_STEPS):
            async with http.request(
                "POST" if form is not None else "GET", url, data=form, allow_redirects=False
            ) as response:
                if response.status in (302, 303):
                    url, form = urljoin(url, response.headers["Location"]), None
                    if urlsplit(url).port != self._port.number:
                        return url
                    continue
                page = await response.text()
                assert response.status == 200, page
            action = re.search(r'<form[^>]* action="([^"]+)"', page)
            prompt = re.search(r'name="prompt" value="(\w+)"', page)
            assert action is not None, page
            assert prompt is not None, page
            url, form = urljoin(url, html.unescape(action[1])), {"prompt": prompt[1]}
            if prompt[1] == "login":
                form |= {"login": name, "password": "of no importance"}
        raise AssertionError(f"the provider does not come to an end: {url}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(TEST_DEADLINE_S)
        self._port.free()

    def _wait(self) -> None:
        deadline = time.monotonic() + TEST_DEADLINE_S
        while True:
            assert self._process.poll() is None, self._output.read_text()
            assert time.monotonic() < deadline, self._output.read_text()
            try:
                with urllib.request.urlopen(f"{self.issuer}/.well-known/openid-configuration", timeout=30):
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(0.05)
