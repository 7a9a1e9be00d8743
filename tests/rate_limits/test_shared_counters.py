"""Counters of requests in a real Redis: shared, and replaced by this process's own while Redis does not answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from journeys.support.processes import ReservedPort
from support.deadlines import TEST_DEADLINE_S
from support.redis_servers import RedisServer, stock_binary, wheel_binary
from tollkeeper.clock import SystemClock
from tollkeeper.errors import RateLimited
from tollkeeper.principal import Principal, Role
from tollkeeper.rate_limits import shared_counters as module
from tollkeeper.rate_limits.shared_counters import PREFIX, TIMEOUT_S
from tollkeeper.rate_limits.throttle import Throttle

ADA = Principal(1, 1, Role.MEMBER, 0)
ADDRESS = "192.0.2.77"

Make = Callable[..., Throttle]


@pytest.fixture(params=["wheel", pytest.param("stock", marks=pytest.mark.exhaustive)])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    binary = wheel_binary() if request.param == "wheel" else stock_binary()
    port = ReservedPort()
    server = RedisServer(binary, port.number, tmp_path).start()
    yield server
    server.stop()
    port.free()


@pytest.fixture
async def make(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Makes the throttles of several processes."""
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    monkeypatch.setattr(module, "TIMEOUT_S", TEST_DEADLINE_S)  # on a busy machine, Redis may take longer to answer
    made: list[Throttle] = []

    def make_one(**limits: str) -> Throttle:
        given = {"login": "off", "ai": "off"} | limits
        made.append(Throttle(**given, clock=SystemClock(), store_url=redis.url))
        return made[-1]

    yield make_one
    for throttle in made:
        await throttle.stop()


async def admitted(*throttles: Throttle, times: int) -> int:
    """How many of so many calls on each are admitted."""
    found = await asyncio.gather(
        *(throttle.check(ADA) for throttle in throttles for _ in range(times)), return_exceptions=True
    )
    assert all(not isinstance(one, Exception) or isinstance(one, RateLimited) for one in found)
    return len([one for one in found if not isinstance(one, RateLimited)])


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_processes_count_together_in_each_window(make: Make) -> None:
    throttles = [make(ai="6/second;10/hour") for _ in range(3)]
    assert await admitted(*throttles, times=4) == 6
    with pytest.raises(RateLimited) as raised:
        await throttles[0].check(ADA)
    assert "TOLLKEEPER_RATE_LIMIT_AI" in raised.value.detail
    assert raised.value.retry_after_s == 1
    await asyncio.sleep(1.1)
    assert await admitted(*throttles, times=4) == 4


async def test_failures_of_an_address_and_its_logins_are_counted_together_and_looked_at_without_counting(
    make: Make, redis: RedisServer
) -> None:
    one, two = (make(login="3/minute") for _ in range(2))
    for number in range(3):
        await one.check_failures(ADDRESS)
        await two.count_failure(ADDRESS)
        await one.check_logins(ADDRESS)
        await one.check_login(f"user{number}@example.com", ADDRESS)
    with pytest.raises(RateLimited):
        await one.check_failures(ADDRESS)
    with pytest.raises(RateLimited) as raised:
        await two.check_logins(ADDRESS)
    assert raised.value.retry_after_s is not None
    assert 55 <= raised.value.retry_after_s <= 60
    client = Redis.from_url(redis.url, decode_responses=True)
    keys = [str(key) for key in client.scan_iter()]
    client.close()
    assert len(keys) == 5
    assert all(key.startswith(PREFIX) for key in keys)
    assert not any(ADDRESS in key or "@" in key for key in keys)


async def test_without_redis_each_process_counts_for_itself_until_it_is_back(make: Make, redis: RedisServer) -> None:
    one, two = make(ai="3/hour"), make(ai="3/hour")
    assert await admitted(one, two, times=1) == 2
    redis.stop()
    with capture_logs() as lines:
        assert await admitted(one, times=5) == 3
        assert await admitted(two, times=5) == 3
        assert (one.store_is_away, two.store_is_away) == (True, True)
        redis.start()
        await until(lambda: not (one.store_is_away or two.store_is_away))
    assert [line["event"] for line in lines] == ["limits.store_away"] * 2 + ["limits.store_back"] * 2
    assert await admitted(one, two, times=3) == 3


async def test_a_redis_that_does_not_answer_delays_few_calls_and_those_shortly(
    make: Make, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", TIMEOUT_S)
    throttle = make(ai="1000/hour")
    await throttle.start()
    with redis.frozen():
        started = time.perf_counter()
        assert await admitted(throttle, times=50) == 50
        first_s = time.perf_counter() - started
        assert throttle.store_is_away
        started = time.perf_counter()
        assert await admitted(throttle, times=500) == 500
        later_s = time.perf_counter() - started
    assert first_s < 50 * TIMEOUT_S / 2, "each call waited"
    assert later_s < 500 * TIMEOUT_S / 10, "each call waited"
    await until(lambda: not throttle.store_is_away)


async def test_an_answer_that_makes_no_sense_counts_as_none(make: Make, redis: RedisServer) -> None:
    throttle = make(login="3/minute")
    await throttle.count_failure(ADDRESS)
    client = Redis.from_url(redis.url)
    for key in client.scan_iter():
        client.set(key, "nonsense")
    client.close()
    await throttle.check_failures(ADDRESS)
    assert throttle.store_is_away
    for _ in range(3):
        await throttle.count_failure(ADDRESS)
    with pytest.raises(RateLimited):
        await throttle.check_failures(ADDRESS)


async def test_a_store_that_is_away_at_the_start_is_noticed_then(make: Make, redis: RedisServer) -> None:
    redis.stop()
    throttle = make(ai="2/minute")
    await throttle.start()
    assert throttle.store_is_away
    assert await admitted(throttle, times=3) == 2


async def test_the_store_in_memory_is_never_away() -> None:
    throttle = Throttle(login="off", ai="2/minute", clock=SystemClock())
    await throttle.start()
    assert await admitted(throttle, times=3) == 2
    assert not throttle.store_is_away
    await throttle.stop()
