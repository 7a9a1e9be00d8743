"""Counters of requests in fixed windows, in the memory of this process."""

from limits.storage import Storage
from limits.strategies import RateLimiter

from tollkeeper.clock import Clock
from tollkeeper.rate_limits.request_rate import RateLimit, RequestRate

HITS_PER_CLEANUP = 10_000
"""How many hits start a search for expired counters."""


class LoopStorage(Storage):
    """Counters for fixed windows, used by one event loop only.

    The memory storage of `limits` is made for threads: it starts one for every 10 ms in which it counts a hit.
    """

    STORAGE_SCHEME = ["loop"]  # noqa: RUF012 - as the base class declares it
    base_exceptions = ValueError

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, *, clock: Clock, **_: str) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._clock = clock
        self._counters: dict[str, tuple[int, float]] = {}
        self._hits = 0
        self.last = 0, 0.0
        """The counter that was counted or read last: its value, and when it begins anew, in seconds since the epoch."""

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now_s = self._clock.now_ms() / 1000
        count, expires_s = self._counters.get(key, (0, 0.0))
        if expires_s <= now_s:
            count, expires_s = 0, now_s + expiry
        self.last = self._counters[key] = count + amount, expires_s
        self._hits += 1
        if self._hits % HITS_PER_CLEANUP == 0:
            self._delete_expired(now_s)
        return count + amount

    def get(self, key: str) -> int:
        count, expires_s = self._counters.get(key, (0, 0.0))
        now_s = self._clock.now_ms() / 1000
        self.last = (count, expires_s) if expires_s > now_s else (0, now_s)
        return self.last[0]

    def get_expiry(self, key: str) -> float:
        return self._counters[key][1] if key in self._counters else self._clock.now_ms() / 1000

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        count = len(self._counters)
        self._counters.clear()
        return count

    def clear(self, key: str) -> None:
        self._counters.pop(key, None)

    def _delete_expired(self, now_s: float) -> None:
        self._counters = {key: counter for key, counter in self._counters.items() if counter[1] > now_s}


class LocalCounters:
    """Counts in this process, by a strategy of `limits` on a `LoopStorage`."""

    def __init__(self, strategy: RateLimiter) -> None:
        assert isinstance(strategy.storage, LoopStorage)
        self._strategy, self._storage = strategy, strategy.storage

    def hit(self, limit: RateLimit, *key: str, cost: int = 1) -> RequestRate:
        """Count; or only look whether a request would be within the limit, where the cost is 0."""
        if cost:
            self._strategy.hit(limit.item, *key)
        else:
            self._strategy.test(limit.item, *key)
        count, resets_s = self._storage.last  # to ask the strategy for it costs more than to count
        return limit.rate(count if cost else count + 1, int(resets_s * 1_000))
