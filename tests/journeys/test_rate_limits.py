"""Rate limits: 429 with the time to wait, for a short time, without an effect on other users."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from journeys.support.server import Server
from journeys.support.users import PASSWORD, Reply, add_user, http_client, login, new_user
from journeys.upstream.handle import Upstream
from support.databases import new_sqlite
from tollkeeper.database.engine import Database

LOGINS, CALLS, READS = 4, 3, 6
SECONDS = 5


@pytest.fixture(scope="module")
def rate_limited_server(
    tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, upstream: Upstream
) -> Iterator[Server]:
    """A server with low rate limits."""
    folder: Path = tmp_path_factory.mktemp("rate_limited_server")
    url = new_sqlite(folder, migrated_file)
    limits = {
        "TOLLKEEPER_RATE_LIMIT_LOGIN": f"{LOGINS}/{SECONDS} seconds",
        "TOLLKEEPER_RATE_LIMIT_AI": f"{CALLS}/{SECONDS} seconds",
        "TOLLKEEPER_RATE_LIMIT_READS": f"{READS}/{SECONDS} seconds",
    }
    server = Server(url, folder, {"OPENAI_BASE_URL": upstream.base_url} | limits)
    try:
        yield server.start()
        server.stop()
    finally:
        server.free()


async def test_a_user_beyond_the_rate_limit_must_wait_and_others_need_not(
    rate_limited_server: Server, upstream: Upstream
) -> None:
    async with new_user(rate_limited_server) as caller, new_user(rate_limited_server) as other:
        replies = [await caller.query(caller.marker) for _ in range(CALLS + 2)]
        assert [reply.status for reply in replies] == [200] * CALLS + [429] * 2
        wait_s = _wait_of(replies[-1], "TOLLKEEPER_RATE_LIMIT_AI")
        assert [_remaining(reply, f"calls-{SECONDS}s") for reply in replies] == [2, 1, 0, 0, 0]
        assert _remaining(replies[0], replies[0].headers["X-Quota-Name"]) > 0
        assert len(await caller.charges()) == len(upstream.requests(caller.marker)) == CALLS
        assert (await other.query(other.marker)).status == 200
        await asyncio.sleep(wait_s)
        assert (await caller.query(caller.marker)).status == 200


async def test_failed_logins_block_an_account_for_their_address_only_and_for_a_short_time(
    rate_limited_server: Server,
) -> None:
    """Whether or not the account exists. A stranger at another address cannot lock the account."""
    email = await _new_account(rate_limited_server)
    for number, account in enumerate((email, "nobody@example.com")):
        async with (
            http_client(rate_limited_server, f"127.0.1.{number * 2 + 1}") as first_client,
            http_client(rate_limited_server, f"127.0.1.{number * 2 + 2}") as second_client,
        ):
            guesses = [await login(first_client, account, f"guess {n}") for n in range(LOGINS)]
            assert [reply.code for reply in guesses] == ["invalid_credentials"] * LOGINS
            wait_s = _wait_of(await login(first_client, account, PASSWORD), "TOLLKEEPER_RATE_LIMIT_LOGIN")
            expected = 200 if account == email else 401
            assert (await login(second_client, account, PASSWORD)).status == expected
            await asyncio.sleep(wait_s)
            assert await _status_after_waits(first_client, account) == expected


async def test_failed_logins_block_their_address_for_every_account_for_a_short_time_only(
    rate_limited_server: Server,
) -> None:
    email = await _new_account(rate_limited_server)
    async with (
        http_client(rate_limited_server, "127.0.2.1") as guesser,
        http_client(rate_limited_server, "127.0.2.2") as other,
    ):
        for number in range(LOGINS):
            assert (await login(guesser, f"{number}@example.com", "guess")).status == 401
        wait_s = _wait_of(await login(guesser, email, PASSWORD), "TOLLKEEPER_RATE_LIMIT_LOGIN")
        assert (await login(other, email, PASSWORD)).status == 200
        await asyncio.sleep(wait_s)
        assert await _status_after_waits(guesser, email) == 200


async def test_guesses_of_one_time_links_block_their_address_for_a_short_time(rate_limited_server: Server) -> None:
    async with http_client(rate_limited_server, "127.0.3.1") as guesser:

        async def guess(path: str, token: str) -> Reply:
            async with guesser.post(path, json={"token": token, "password": PASSWORD}) as response:
                return Reply(response.status, await response.json(content_type=None), response.headers)

        for number in range(LOGINS):
            path = "/auth/reset" if number % 2 else "/auth/invitations"
            assert (await guess(path, f"guess-{number}")).code == "invalid_link"
        _wait_of(await guess("/auth/reset", "guess"), "TOLLKEEPER_RATE_LIMIT_LOGIN")


async def test_all_requests_of_a_user_that_are_not_metered_have_one_limit(rate_limited_server: Server) -> None:
    async with new_user(rate_limited_server) as caller, new_user(rate_limited_server) as other:
        for path in ("/me", "/me/quota", "/me/charges", "/ai/models", "/v1/models", "/ai/sessions"):
            reply = await caller.get(path)
            assert reply.status == 200, path
            name = "x-ratelimit-limit-requests" if path.startswith("/v1/") else "RateLimit-Policy"
            expected = str(READS) if path.startswith("/v1/") else f'"requests-{SECONDS}s";q={READS};w={SECONDS}'
            assert reply.headers[name] == expected, path
        wait_s = _wait_of(await caller.get("/auth/keys"), "TOLLKEEPER_RATE_LIMIT_READS")
        for method, path in (
            ("GET", "/me/charges/chg_0"),
            ("DELETE", "/ai/sessions/x"),
            ("DELETE", "/auth/keys/key_1"),
        ):
            async with caller.http.request(method, path, headers=caller.auth_headers) as response:
                assert (response.status, (await response.json())["code"]) == (429, "rate_limited"), path
        in_openais_format = await caller.get("/v1/models")
        assert (in_openais_format.status, in_openais_format.headers["x-ratelimit-remaining-requests"]) == (429, "0")
        assert "TOLLKEEPER_RATE_LIMIT_READS" in in_openais_format.body["error"]["message"]
        assert (await caller.query(caller.marker)).status == 200
        assert (await other.get("/me")).status == 200
        await asyncio.sleep(wait_s)
        assert (await caller.get("/me")).status == 200


async def test_documents_are_limited_per_address_and_health_checks_are_not(rate_limited_server: Server) -> None:
    async with (
        http_client(rate_limited_server, "127.0.3.1") as reader,
        http_client(rate_limited_server, "127.0.3.2") as other,
    ):
        for path in ("/docs", "/docs/favicon.png", "/redoc", "/openapi.json", "/docs", "/redoc"):
            assert (await _get(reader, path))[0] == 200, path
        for path in ("/docs", "/docs/favicon.png", "/redoc", "/openapi.json"):
            status, body = await _get(reader, path)
            assert (status, body["code"]) == (429, "rate_limited"), path
            assert "TOLLKEEPER_RATE_LIMIT_READS" in body["detail"]
        assert (await _get(other, "/docs"))[0] == 200
        for path in ("/", "/health", "/health/ready", "/health/live") * 3:
            assert (await _get(reader, path))[0] == 200, path


async def _status_after_waits(http: aiohttp.ClientSession, account: str) -> int:
    """The status of a login. The windows of its limits end one after the other."""
    for _ in range(3):
        reply = await login(http, account, PASSWORD)
        if reply.status != 429:
            break
        await asyncio.sleep(int(reply.headers["Retry-After"]))
    return reply.status


async def _get(http: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    """The status of a response, and its JSON body if it is an error."""
    async with http.get(path) as response:
        return response.status, await response.json(content_type=None) if response.status >= 400 else None


def _wait_of(reply: Reply, setting: str) -> int:
    """The seconds to wait after a 429 response, whose text names the setting."""
    assert (reply.status, reply.code) == (429, "rate_limited")
    assert setting in reply.body["detail"]
    seconds = int(reply.headers["Retry-After"])
    assert 1 <= seconds <= SECONDS + 1  # with the jitter
    return seconds


def _remaining(reply: Reply, name: str) -> int:
    """What the field RateLimit says is left of the limit of this name."""
    (found,) = re.findall(rf'"{name}";r=(\d+)', reply.headers["RateLimit"])
    return int(found)


async def _new_account(server: Server) -> str:
    database = Database(server.database_url)
    try:
        return (await add_user(database))[1]
    finally:
        await database.close()
