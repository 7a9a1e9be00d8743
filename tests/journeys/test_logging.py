"""The server's log: it identifies each call, and contains no secret, prompt or answer."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from journeys.support.raw_http import exchange, request
from journeys.support.server import SECRET, Server
from journeys.support.users import PASSWORD, http_client, login, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

PROVIDER_KEY = "sk-of-the-operator"
LINES = 1_000


async def test_no_secret_prompt_or_answer_is_logged(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream
) -> None:
    server = make_server(sqlite_url, OPENAI_BASE_URL=upstream.base_url, LOG_LEVEL="debug").start()
    async with new_user(server) as caller:
        text = "confidential-text"
        await caller.query(scripted(caller.marker, answer=text))
        await caller.query(scripted(caller.marker, status=500, raw=text))
        await caller.query(scripted(caller.marker, raw=text))
        await caller.query(caller.marker, max_tokens=text)
        await login(caller.http, caller.email, text)
        for body in (b'{"prompt": "confidential-text', b"[" * 100_000):
            await exchange(server.port, request("POST", "/ai/query", body, caller.auth_headers))
        await exchange(server.port, request("GET", "/me", b"", {"Authorization": f"Bearer {caller.token}x"}))
        key_user = await caller.with_api_key()
        await exchange(server.port, request("GET", "/me", b"", {"Authorization": f"Bearer {key_user.token}"}))
        await exchange(server.port, request("GET", "/me", b"", {"X-Api-Key": f"{key_user.token}x"}))
        await key_user.query(caller.marker)
        async with caller.http.delete(f"/auth/keys/{key_user.token}", headers=caller.auth_headers) as response:
            assert response.status == 404, "keys are revoked by their id"
        await caller.get(f"/me/charges/{caller.token}")
    server.stop()
    for secret in (
        key_user.token,
        caller.token,
        caller.token.rpartition(".")[2],
        PASSWORD,
        SECRET,
        PROVIDER_KEY,
        text,
        caller.marker,
    ):
        assert secret not in server.program.output


async def test_a_call_is_logged_with_its_correlation_id(server: Server) -> None:
    async with new_user(server) as caller:
        correlation_id = f"follow-{caller.marker}"
        headers = caller.auth_headers | {"X-Correlation-ID": correlation_id}
        async with caller.http.post("/ai/query", json={"prompt": "x"}, headers=headers) as response:
            assert response.headers["X-Correlation-ID"] == correlation_id
            charge_id = response.headers["X-Charge-ID"]
    async with asyncio.timeout(TEST_DEADLINE_S):
        while len(lines := [line for line in server.program.output.splitlines() if correlation_id in line]) < 3:
            await asyncio.sleep(0.02)  # the lines are written after the response
    request, call, line = map(json.loads, lines)
    assert (request["event"], request["data"]["surface"]) == ("ai.request", "query")
    assert (call["event"], call["data"]["charge"]["id"]) == ("ai.response", charge_id)
    assert line["event"] == "http.request"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/ai/query", 200)


@pytest.mark.exhaustive
async def test_a_log_that_nobody_reads_holds_up_no_request(
    make_server: Callable[..., Server], sqlite_url: str, tmp_path: Path
) -> None:
    """More lines than a pipe takes are all there once somebody reads it."""
    server = make_server(sqlite_url)
    output = tmp_path / "server" / "server.out"
    os.mkfifo(output)
    reader = os.open(output, os.O_RDWR | os.O_NONBLOCK)
    server.start()
    async with asyncio.timeout(TEST_DEADLINE_S), http_client(server) as http:
        for _ in range(LINES):
            async with http.get("/health/live") as response:
                assert response.status == 200
    found = b""
    async with asyncio.timeout(TEST_DEADLINE_S):
        while found.count(b'"/health/live"') < LINES:
            try:
                found += os.read(reader, 65536)
            except BlockingIOError:
                await asyncio.sleep(0.01)
    lines = [json.loads(line) for line in found.splitlines() if line.startswith(b"{")]
    assert sum(line.get("path") == "/health/live" for line in lines) == LINES
    assert server.program.terminate() == 0
    os.close(reader)
