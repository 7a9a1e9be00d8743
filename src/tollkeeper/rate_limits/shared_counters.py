"""Counters of requests in fixed windows, in a Redis that several processes share."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import structlog
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tollkeeper.clock import Clock
from tollkeeper.rate_limits.local_counters import LocalCounters
from tollkeeper.rate_limits.request_rate import RateLimit, RequestRate

TIMEOUT_S = 0.1
"""How long a request waits for Redis. After that it counts in this process."""
MAX_FAILURES = 3
"""So many requests in a row that Redis has not answered in time open the circuit: no request waits for it any more."""
RETRY_S = 1.0
"""How often an open circuit tries whether Redis answers again."""
MAX_BATCH = 500
"""Increments in one round trip."""
KEY_BYTES = 16
PREFIX = "tollkeeper:limits"
_INCREMENT = """
local count = redis.call('INCRBY', KEYS[1], ARGV[2])
if count == tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('PTTL', KEYS[1])}
"""
"""Count in a fixed window, which begins with the first request. Returns the count, and how long it lasts, in ms."""

Result = TypeVar("Result")

log = structlog.get_logger("tollkeeper.limits")


class _Increment(NamedTuple):
    """A counter to be incremented, and who waits for its new value and the milliseconds until it begins anew."""

    key: str
    expiry: int
    amount: int
    result: asyncio.Future[tuple[int, int]]


class _BatchedStorage(RedisStorage):
    """The storage of `limits` on one connection, which increments what waits in one round trip.

    A round trip for each costs 60 to 130 µs of CPU, and requests that wait for one of several connections starve.
    """

    def __init__(self, url: str, client: Redis) -> None:
        super().__init__(
            f"async+{url}",
            implementation="redispy",
            key_prefix=PREFIX,
            connection_pool=client.connection_pool,  # type: ignore[arg-type]
        )
        self._client = client
        self._waiting: list[_Increment] = []
        self._sending: asyncio.Task[None] | None = None

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Raises RedisError, OSError."""
        return (await self.count(key, expiry, amount))[0]

    async def count(self, key: str, expiry: int, amount: int) -> tuple[int, int]:
        """As `incr`, with the milliseconds until the counter begins anew."""
        count: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Increment(self.bridge.prefixed_key(key), expiry, amount, count))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        return await count

    async def close(self) -> None:
        """Cancel what waits."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        for one in self._waiting:
            one.result.cancel()

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            try:
                counts = await self._increment(batch)
            except (RedisError, OSError) as error:
                counts = [error] * len(batch)
            for one, count in zip(batch, counts, strict=True):
                if one.result.done():  # its request waits no more
                    continue
                if isinstance(count, list) and len(count) == 2:
                    one.result.set_result((int(count[0]), int(count[1])))
                else:
                    one.result.set_exception(count if isinstance(count, Exception) else ValueError("no number"))

    async def _increment(self, batch: Sequence[_Increment]) -> list[Any]:
        """The new values, or errors. Raises RedisError, OSError."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for one in batch:
                pipeline.eval(_INCREMENT, 1, one.key, one.expiry, one.amount)
            return await pipeline.execute(raise_on_error=False)


class _Strategy(FixedWindowRateLimiter):
    """Fixed windows, of which one round trip also tells how much is left."""

    def __init__(self, storage: _BatchedStorage, clock: Clock) -> None:
        super().__init__(storage)
        self._counters, self._clock = storage, clock

    async def count(self, limit: RateLimit, *key: str) -> RequestRate:
        """Raises RedisError, OSError, ValueError."""
        count, left_ms = await self._counters.count(limit.item.key_for(*key), limit.window_s, 1)
        return limit.rate(count, self._clock.now_ms() + left_ms)

    async def look(self, limit: RateLimit, *key: str) -> RequestRate:
        """Look whether a request would be within the limit; if not, a second round trip tells when one will be.

        Raises RedisError, OSError, ValueError.
        """
        count, now_ms = await self.storage.get(limit.item.key_for(*key)), self._clock.now_ms()
        if count < limit.amount:
            return limit.rate(count + 1, now_ms)
        return limit.rate(count + 1, round(await self.storage.get_expiry(limit.item.key_for(*key)) * 1_000))


class SharedCounters:
    """Counts in Redis, and in this process while Redis does not answer."""

    def __init__(self, url: str, local: LocalCounters, clock: Clock) -> None:
        self._client = Redis.from_url(
            url,
            socket_timeout=2 * TIMEOUT_S,  # `_ask` does not wait so long
            socket_connect_timeout=2 * TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._storage = _BatchedStorage(url, self._client)
        self._strategy = _Strategy(self._storage, clock)
        self._local = local
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None
        self.is_away = False
        """Whether the circuit is open: this process counts for itself."""

    async def start(self) -> None:
        """Find out whether Redis answers."""
        await self._ask(self._ping)

    async def stop(self) -> None:
        """Close all connections."""
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing
        await self._storage.close()
        await self._client.aclose()

    async def hit(self, limit: RateLimit, *key: str, cost: int = 1) -> RequestRate:
        """As `LocalCounters.hit`, in one round trip; a look that finds no room takes a second one."""
        if not self.is_away:
            name = _short(key)
            ask = self._strategy.count if cost else self._strategy.look
            if (rate := await self._ask(lambda: ask(limit, name))) is not None:
                return rate
        return self._local.hit(limit, *key, cost=cost)

    async def _ping(self) -> bool:
        return bool(await self._client.ping())

    async def _ask(self, question: Callable[[], Awaitable[Result]]) -> Result | None:
        """The answer of Redis; None without one."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await question()
        except (RedisError, OSError, ValueError, TypeError) as error:  # a TimeoutError is one, too
            self._note_failure(error)  # a ValueError or TypeError is an answer that makes no sense
            return None
        self._failures = 0
        return answer

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        if self.is_away or (isinstance(error, TimeoutError) and self._failures < MAX_FAILURES):
            return
        self.is_away = True
        log.warning("limits.store_away", reason=type(error).__name__)
        self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        """Ask until Redis answers. Then the circuit closes."""
        while self.is_away:
            await asyncio.sleep(RETRY_S)
            with suppress(RedisError, OSError):
                async with asyncio.timeout(TIMEOUT_S):
                    await self._ping()
                    self.is_away = False
        self._failures = 0
        log.info("limits.store_back")


def _short(key: tuple[str, ...]) -> str:
    """A name of bounded length. A caller chooses some parts of keys, and addresses need not be readable in Redis."""
    return blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).hexdigest()
