"""Two servers behind nginx with the configuration of `deploy/nginx`."""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from journeys.support.endpoints import NATIVE_STREAM, STREAMING_ENDPOINTS, WEBSOCKET, Endpoint, open_call
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.server import Server
from journeys.support.users import PASSWORD, Reply, http_client_at, new_user
from journeys.upstream.handle import Upstream, scripted
from support.databases import new_sqlite
from support.deadlines import TEST_DEADLINE_S
from support.deployment import check_deployment
from support.nginx import Nginx, nginx

CHAT = "/v1/chat/completions"
READS = 10
MIB = 1024 * 1024
CALLS = 20
STREAMS = (NATIVE_STREAM, WEBSOCKET, next(one for one in STREAMING_ENDPOINTS if one.path == CHAT))


class Cluster(NamedTuple):
    """Two nodes on one database, and nginx in front of them."""

    nodes: tuple[Server, Server]
    proxy: Nginx

    @property
    def url(self) -> str:
        return self.proxy.url


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    database_url = new_sqlite(folder, migrated_file)
    settings = {
        "OPENAI_BASE_URL": upstream.base_url,
        "TOLLKEEPER_LEASE_SECONDS": "1",
        "TOLLKEEPER_SWEEP_SECONDS": "0.2",
        "TOLLKEEPER_RATE_LIMIT_READS": f"{READS}/hour",
    }
    for name in ("one", "two"):
        (folder / name).mkdir()
    nodes = (Server(database_url, folder / "one", settings), Server(database_url, folder / "two", settings))
    try:
        for node in nodes:
            node.start()
        with nginx([node.port for node in nodes]) as proxy:
            yield Cluster(nodes, proxy)
        for node in nodes:
            node.stop()
    finally:
        for node in nodes:
            node.free()


@pytest.mark.parametrize("endpoint", STREAMS, ids=lambda endpoint: endpoint.name)
async def test_a_stream_passes_piece_by_piece_and_ends_at_the_provider_when_its_client_leaves(
    cluster: Cluster, upstream: Upstream, endpoint: Endpoint
) -> None:
    async with new_user(cluster.nodes[0]) as user, user.at(cluster.url) as caller, asyncio.timeout(TEST_DEADLINE_S):
        answer = "one two three four"
        with upstream.gate(f"{caller.marker}-whole"):
            prompt = scripted(f"{caller.marker}-whole", answer=answer, gate_after=[2, f"{caller.marker}-whole"])
            async with open_call(caller, endpoint, prompt, "gpt-4o-mini") as stream:
                await stream.read_words(2)
                assert stream.answer.words == 2
                upstream.open(f"{caller.marker}-whole")
                await stream.read_all()
        assert (stream.answer.text, stream.answer.error) == (answer, None)

        with upstream.gate(f"{caller.marker}-left"):
            prompt = scripted(f"{caller.marker}-left", answer=answer, gate_after=[2, f"{caller.marker}-left"])
            async with open_call(caller, endpoint, prompt, "gpt-4o-mini") as stream:
                await stream.read_words(2)
                await stream.disconnect()
            while not upstream.sent(f"{caller.marker}-left")[0].cancelled:
                await asyncio.sleep(0.02)


async def test_bodies_have_the_limits_of_the_endpoints_and_errors_of_nginx_have_their_formats(
    cluster: Cluster, upstream: Upstream
) -> None:
    async with new_user(cluster.nodes[0], limit=10**9) as user, user.at(cluster.url) as caller:
        fitting = await _send_picture(caller.http, caller.token, caller.marker, 20 * MIB - 1024)
        assert fitting[0] == 200, fitting
        (received,) = upstream.requests(caller.marker)
        assert len(received["body"]["messages"][0]["content"][1]["image_url"]["url"]) > 19 * MIB

        status, headers, body = await _send_picture(caller.http, caller.token, caller.marker, 20 * MIB + 1)
        assert (status, headers["X-Error-Code"]) == (413, "body_too_large")
        assert headers["Content-Type"] == "application/json"
        assert body["error"].keys() == {"type", "message", "param", "code"}
        unknown = await _send_picture(caller.http, "no-token", caller.marker, 20 * MIB - 1024)
        assert unknown[0] == 401, unknown
        assert len(upstream.requests(caller.marker)) == 1

        at_the_limit = await caller.query("x" * (MIB - 100))
        assert at_the_limit.status == 200, at_the_limit
        named = {"X-Correlation-ID": "from-the-caller"} | caller.auth_headers
        async with caller.http.post("/ai/query", data=BytesIO(b"x" * (MIB + 1)), headers=named) as response:
            beyond = Reply(response.status, await response.json(content_type=None), response.headers)
        assert (beyond.status, beyond.code) == (413, "body_too_large")
        assert beyond.body["correlation_id"] == "from-the-caller"


async def test_limits_per_address_count_the_client_whatever_it_claims(cluster: Cluster) -> None:
    async with http_client_at(cluster.url, "127.0.0.2") as one, http_client_at(cluster.url, "127.0.0.3") as other:
        seen = []
        for number in range(2 * READS + 1):  # each node counts for itself
            headers = {"X-Forwarded-For": f"192.0.2.{number}", "X-Real-IP": "192.0.2.1", "Forwarded": "for=192.0.2.1"}
            async with one.get("/docs", headers=headers) as response:
                seen.append(response.status)
        assert seen[:READS] == [200] * READS
        assert seen[-1] == 429
        async with other.get("/docs") as response:
            assert response.status == 200


async def test_a_deployment_is_checked_from_outside(cluster: Cluster) -> None:
    """The script of `make docker-test`, on these processes instead of containers."""
    async with new_user(cluster.nodes[0]) as user:
        code, output = await asyncio.to_thread(check_deployment, cluster.url, user.email, PASSWORD)
        assert code == 0, output
        assert output.count("ok: ") == 5
        code, output = await asyncio.to_thread(check_deployment, cluster.url, user.email, "another password")
        assert code == 1
        assert "failed: the login answers 401" in output


async def test_the_other_node_serves_and_no_call_is_sent_twice(cluster: Cluster, upstream: Upstream) -> None:
    """A node is killed while it makes a call, then stays away, then comes back."""
    stopped, other = cluster.nodes
    async with new_user(other) as user, user.at(cluster.url) as caller, asyncio.timeout(TEST_DEADLINE_S):
        marker = f"{caller.marker}-cut"
        with upstream.gate(marker):
            prompt = scripted(marker, gate=marker)
            calls = [asyncio.create_task(_chat(caller.http, caller.token, prompt)) for _ in range(4)]
            while upstream.waiting(marker) < len(calls):
                await asyncio.sleep(0.02)
            stopped.program.kill()
            done, running = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 2:  # least_conn gives each node two
                done, running = await asyncio.wait(calls, timeout=0.05)
            upstream.open(marker)
            await asyncio.gather(*running)
        broken, whole = [call.result() for call in done], [call.result() for call in running]
        assert [status for status, _ in whole] == [200] * 2
        assert [status for status, _ in broken] == [502] * 2
        assert all(headers["X-Should-Retry"] == "false" for _, headers in broken)
        assert all(headers["X-Error-Code"] == "server_unavailable" for _, headers in broken)
        assert len(upstream.requests(marker)) == len(calls)

        replies = [await caller.query(scripted(f"{caller.marker}-down")) for _ in range(CALLS)]
        assert [reply.status for reply in replies] == [200] * CALLS
        assert len(upstream.requests(f"{caller.marker}-down")) == CALLS
        stopped.start()
        while not all(charge["closed_at"] for charge in await caller.charges()):
            await asyncio.sleep(0.3)
    await assert_ledger_is_consistent(other.database_url)
    for line in cluster.proxy.access_log.splitlines():
        assert json.loads(line)["correlation_id"]
    assert marker not in cluster.proxy.access_log


async def _send_picture(
    http: aiohttp.ClientSession, token: str, marker: str, body_bytes: int
) -> tuple[int, dict[str, str], Any]:
    """Send a chat with a picture, whose whole body has so many bytes. Returns status, headers and body."""

    def body(url: str) -> bytes:
        picture = {"type": "image_url", "image_url": {"url": url}}
        content = [{"type": "text", "text": marker}, picture]
        message = {"role": "user", "content": content}
        return json.dumps({"model": "gpt-4o-mini", "max_tokens": 50, "messages": [message]}).encode()

    prefix = "data:image/png;base64,"
    left = body_bytes - len(body(prefix))
    pixels = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(left // 4 * 3 - 8)).decode()
    sent = body(prefix + pixels)
    sent += b" " * (body_bytes - len(sent))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    async with http.post(CHAT, data=BytesIO(sent), headers=headers) as response:
        return response.status, dict(response.headers), await response.json(content_type=None)


async def _chat(http: aiohttp.ClientSession, token: str, prompt: str) -> tuple[int, dict[str, str]]:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]}
    async with http.post(CHAT, json=body, headers={"Authorization": f"Bearer {token}"}) as response:
        with suppress(aiohttp.ClientError):
            await response.read()
        return response.status, dict(response.headers)
