"""What docker-compose.yml starts, as processes: its commands, variables and secrets, with real servers around."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.processes import Program, ReservedPort, clean_environment
from journeys.support.users import http_client_at, login
from support.deadlines import TEST_DEADLINE_S
from support.deployment import check_deployment, create_secrets, image_variables, read_compose
from support.nginx import nginx
from support.redis_servers import wheel_binary

pytestmark = pytest.mark.exhaustive

SERVICES = read_compose()["services"]
MEMBER = "member@example.com"
LOOPS = 4


class Container:
    """What stands for the container of a service: a folder for its volume, and processes with its variables."""

    def __init__(self, service: str, folder: Path, secrets: Path) -> None:
        self.volume = folder / service
        self.volume.mkdir()
        self.port, self.metrics_port = ReservedPort(), ReservedPort()
        self._service = SERVICES[service]
        self._secrets = secrets
        self._programs: list[Program] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port.number}"

    def run(self, *command: str) -> Program:
        """Start this command, or that of the service."""
        words = command or tuple(self._service["command"])
        assert words[0] == "tollkeeper"
        output = self.volume / f"output-{len(self._programs)}"
        self._programs.append(
            Program(words, environment=clean_environment(self._variables()), folder=self.volume, output=output)
        )
        return self._programs[-1]

    def _variables(self) -> dict[str, str]:
        variables: dict[str, str] = image_variables() | self._service["environment"]
        del variables["PATH"]
        for name, value in variables.items():
            moved = str(self.volume) if value == "/data" else value
            variables[name] = moved.replace("/run/secrets/", f"{self._secrets}/")
        return variables | {
            "TOLLKEEPER_HOST": "127.0.0.1",
            "TOLLKEEPER_PORT": str(self.port.number),
            "TOLLKEEPER_METRICS_PORT": str(self.metrics_port.number),
            "TOLLKEEPER_TRUSTED_PROXIES": "127.0.0.1",
            "TOLLKEEPER_DRAIN_SECONDS": "1",
            "TOLLKEEPER_BCRYPT_ROUNDS": "4",
        }

    def remove(self) -> None:
        for program in self._programs:
            if program.running:
                program.terminate()
        self.port.free()
        self.metrics_port.free()


@pytest.fixture
def secrets(tmp_path: Path, postgres_url: str) -> Iterator[Path]:
    """The secrets of `make docker-run`, with the addresses of servers of this machine, and the Redis that they open."""
    folder = tmp_path / "secrets"
    created = create_secrets(folder)
    redis_port = ReservedPort()
    (folder / "database-url").write_text(postgres_url)
    (folder / "limits-store").write_text(
        created["limits-store"].replace("redis:6379", f"127.0.0.1:{redis_port.number}")
    )
    with _redis(folder, redis_port.number):
        yield folder
    redis_port.free()


@contextmanager
def _redis(secrets: Path, port: int) -> Iterator[None]:
    *shell, command = SERVICES["redis"]["command"]
    command = command.replace("$$", "$").replace("/run/secrets", str(secrets))
    path = f"{Path(wheel_binary()).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [*shell, f"{command} --port {port} --bind 127.0.0.1 --dir {secrets}"],
        env=os.environ | {"PATH": path},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(TEST_DEADLINE_S)


@pytest.mark.long
async def test_two_nodes_serve_behind_nginx_and_one_can_be_restarted_without_a_lost_request(
    tmp_path: Path, secrets: Path, postgres_url: str
) -> None:
    one, two = (Container(name, tmp_path, secrets) for name in ("api-1", "api-2"))
    try:
        migration = one.run(*SERVICES["migrate"]["command"])
        assert migration.wait_for_end() == 0, migration.output
        nodes = {container: container.run() for container in (one, two)}
        for container, node in nodes.items():
            node.wait_for_answer(f"{container.url}/health/ready")
        passwords = (one.volume / "first-passwords").read_text().splitlines()
        password = dict(line.split() for line in passwords)[MEMBER]
        with nginx([one.port.number, two.port.number]) as proxy:
            code, output = await asyncio.to_thread(check_deployment, proxy.url, MEMBER, password)
            assert code == 0, output
            async with http_client_at(proxy.url) as http, asyncio.timeout(TEST_DEADLINE_S):
                token = (await login(http, MEMBER, password)).body["access_token"]
                stop, statuses = asyncio.Event(), list[int]()
                loops = [asyncio.create_task(_call_until(stop, http, token, statuses)) for _ in range(LOOPS)]
                assert await asyncio.to_thread(nodes[two].terminate) == 0
                stopped_at = len(statuses)
                while len(statuses) < stopped_at + LOOPS:
                    await asyncio.sleep(0.02)
                stop.set()
                await asyncio.gather(*loops)
            assert set(statuses) == {200}
            code, output = await asyncio.to_thread(check_deployment, proxy.url, MEMBER, password)
            assert code == 0, output
        metrics = f"http://127.0.0.1:{one.metrics_port.number}/metrics"
        async with aiohttp.ClientSession() as http, http.get(metrics) as response:
            assert "\ntollkeeper_limits_store_away 0.0" in await response.text()
        for command in (("doctor",), ("ledger", "verify")):
            checked = one.run("tollkeeper", *command)
            assert checked.wait_for_end() == 0, checked.output
        assert nodes[one].terminate() == 0
        assert not any("Traceback" in node.output for node in nodes.values())
    finally:
        for container in (one, two):
            container.remove()
    await assert_ledger_is_consistent(postgres_url)


async def _call_until(stop: asyncio.Event, http: aiohttp.ClientSession, token: str, statuses: list[int]) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    while not stop.is_set():
        async with http.post("/ai/query", json={"prompt": "one two", "max_tokens": 50}, headers=headers) as response:
            statuses.append(response.status)
