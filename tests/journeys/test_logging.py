"""What the server writes about its calls: enough to follow one, and nothing secret or said in confidence."""

import asyncio
import json
from collections.abc import Callable

from journeys.support.raw_http import exchange, request
from journeys.support.server import SECRET, Server
from journeys.support.users import PASSWORD, login, person
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S

HOUSE_KEY = "sk-of-the-house"


async def test_no_secret_and_nothing_that_was_said_is_ever_logged(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream
) -> None:
    server = make_server(sqlite_url, OPENAI_BASE_URL=upstream.base_url, LOG_LEVEL="debug").start()
    async with person(server) as caller:
        said = "said-in-confidence"
        await caller.ask(scripted(caller.marker, answer=said))
        await caller.ask(scripted(caller.marker, status=500, raw=said))
        await caller.ask(scripted(caller.marker, raw=said))
        await caller.ask(caller.marker, max_tokens=said)
        await login(caller.http, caller.email, said)
        for body in (b'{"prompt": "said-in-confidence', b"[" * 100_000):
            await exchange(server.port, request("POST", "/ai/query", body, caller.bearer))
        await exchange(server.port, request("GET", "/me", b"", {"Authorization": f"Bearer {caller.token}x"}))
        robot = await caller.with_api_key()
        await exchange(server.port, request("GET", "/me", b"", {"Authorization": f"Bearer {robot.token}"}))
        await exchange(server.port, request("GET", "/me", b"", {"X-Api-Key": f"{robot.token}x"}))
        await robot.ask(caller.marker)
        async with caller.http.delete(f"/auth/keys/{robot.token}", headers=caller.bearer) as response:
            assert response.status == 404, "keys are revoked by their id"
        await caller.get(f"/me/charges/{caller.token}")
    server.stop()
    for secret in (
        robot.token,
        caller.token,
        caller.token.rpartition(".")[2],
        PASSWORD,
        SECRET,
        HOUSE_KEY,
        said,
        caller.marker,
    ):
        assert secret not in server.program.output


async def test_a_call_can_be_followed_by_its_correlation_id(server: Server) -> None:
    async with person(server) as caller:
        correlation_id = f"follow-{caller.marker}"
        headers = caller.bearer | {"X-Correlation-ID": correlation_id}
        async with caller.http.post("/ai/query", json={"prompt": "x"}, headers=headers) as response:
            assert response.headers["X-Correlation-ID"] == correlation_id
    async with asyncio.timeout(PATIENCE_S):
        while not (lines := [line for line in server.program.output.splitlines() if correlation_id in line]):
            await asyncio.sleep(0.02)  # it is written after the answer was sent
    (line,) = map(json.loads, lines)
    assert line["event"] == "http.request"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/ai/query", 200)
