"""Two workers and a Redis: a rate limit holds for both together; without Redis calls go on, and /health says so."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.users import ApiUser, http_client, new_user
from support.deadlines import TEST_DEADLINE_S
from support.redis_servers import RedisServer, wheel_binary

LIMIT, CALLS = 10, 24


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    port = ReservedPort()
    server = RedisServer(wheel_binary(), port.number, tmp_path).start()
    yield server
    server.stop()
    port.free()


async def test_workers_share_a_rate_limit_and_serve_without_redis(
    make_server: Callable[..., Server], sqlite_url: str, redis: RedisServer
) -> None:
    settings = {"TOLLKEEPER_WORKERS": "2", "TOLLKEEPER_RATE_LIMIT_AI": f"{LIMIT}/hour", "OPENAI_API_KEY": ""}
    server = make_server(sqlite_url, TOLLKEEPER_LIMITS_STORE=redis.url, **settings).start()
    async with new_user(server) as caller, new_user(server) as other, asyncio.timeout(TEST_DEADLINE_S):
        assert await statuses(caller) == {200: LIMIT, 429: CALLS - LIMIT}
        assert await state(server) == "healthy"
        redis.stop()
        found = await statuses(other)
        assert LIMIT <= found[200] <= 2 * LIMIT, "each worker counts for itself"
        assert found[200] + found[429] == CALLS
        while await state(server) != "degraded":
            await asyncio.sleep(0.02)
        assert (await other.quota())["reserved"] == 0
    server.stop()
    lines = [line for line in server.program.output.splitlines() if '"limits.store_away"' in line]
    assert 1 <= len(lines) <= 2, "a worker logs it once"
    assert redis.url not in server.program.output


async def statuses(caller: ApiUser) -> Counter[int]:
    """The statuses of calls at once, each on a connection of its own."""
    replies = await asyncio.gather(*(caller.query("hello", max_tokens=16) for _ in range(CALLS)))
    return Counter(reply.status for reply in replies)


async def state(server: Server) -> str:
    """What a stranger sees of one of the workers."""
    async with http_client(server) as http, http.get("/health") as response:
        return str((await response.json())["status"])
