"""The system's Prometheus: `promtool`, and a server that scrapes with the configuration of `deploy/prometheus`."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from journeys.support.processes import ReservedPort
from support.deadlines import TEST_DEADLINE_S

DEPLOYED = Path(__file__).parents[2] / "deploy" / "prometheus"
STOPS_WITHIN_S = 10.0
PAUSE_S = 0.05

Sample = dict[str, Any]


def find_program(name: str) -> str:
    """The path of `prometheus` or `promtool`. Where it is missing, the test is skipped; in CI it fails."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(f"{name} not found", pytrace=False)
        pytest.skip(f"{name} not found: apt-get install prometheus")
    return found


class Prometheus:
    """A running Prometheus, through its HTTP API."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def query(self, expression: str) -> list[Sample]:
        """The samples that an expression returns now."""
        found: list[Sample] = (await self._get("query", query=expression))["result"]
        return found

    async def labels_of(self, metric: str) -> set[str]:
        """The labels of all series of a metric; empty if there is none."""
        return {label for series in await self._get("series", **{"match[]": metric}) for label in series}

    async def rules(self) -> list[dict[str, Any]]:
        """All rules with their state, once each was evaluated."""
        async with asyncio.timeout(TEST_DEADLINE_S):
            while True:
                rules = [rule for group in (await self._get("rules"))["groups"] for rule in group["rules"]]
                if rules and all(rule["health"] != "unknown" for rule in rules):
                    return rules
                await asyncio.sleep(PAUSE_S)

    async def wait_for(self, expression: str) -> None:
        """Return when the expression has a sample."""
        async with asyncio.timeout(TEST_DEADLINE_S):
            while not await self.query(expression):
                await asyncio.sleep(PAUSE_S)

    async def _get(self, resource: str, **parameters: str) -> Any:
        async with self._http.get(f"/api/v1/{resource}", params=parameters) as response:
            document = await response.json()
        assert document["status"] == "success", (parameters, document)
        return document["data"]


@asynccontextmanager
async def scraping(targets: Sequence[str], folder: Path, *, interval: str = "300ms") -> AsyncIterator[Prometheus]:
    """Start a Prometheus that scrapes these targets (host:port), with the rules of `deploy/prometheus`.

    A target that does not answer within `interval` counts as down.
    """
    program, own_port = find_program("prometheus"), ReservedPort()
    written = (DEPLOYED / "prometheus.yml").read_text()
    changes = {
        'targets: ["127.0.0.1:9464"]': f"targets: {json.dumps(list(targets))}",
        "scrape_interval: 15s": f"scrape_interval: {interval}",
    }
    for before, after in changes.items():
        assert written.count(before) == 1
        written = written.replace(before, after)
    (folder / "prometheus.yml").write_text(written.replace("evaluation_interval: 15s", "evaluation_interval: 1s"))
    shutil.copy(DEPLOYED / "alerts.yml", folder)
    arguments = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{own_port.number}",
    ]
    own_port.free()
    with (folder / "prometheus.out").open("wb") as output:
        process = subprocess.Popen([program, *arguments], stdout=output, stderr=output)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{own_port.number}") as http:
            await _wait_until_ready(http, process, folder / "prometheus.out")
            yield Prometheus(http)
    finally:
        process.terminate()
        process.wait(STOPS_WITHIN_S)


async def _wait_until_ready(http: aiohttp.ClientSession, process: "subprocess.Popen[bytes]", output: Path) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while True:
            assert process.poll() is None, output.read_text()
            try:
                async with http.get("/-/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(PAUSE_S)
