"""How fast one may call: coarse limits on requests, over slowapi's `Limiter`. Tokens are the ledger's matter.

Limits count per process, in memory.
"""

import math
import time

from limits import RateLimitItem, parse_many
from limits.storage import Storage
from slowapi import Limiter
from slowapi.util import get_remote_address

from tollkeeper.errors import RateLimited
from tollkeeper.principal import Principal

TIDY_EVERY = 10_000
"""Hits between two looks for counters that are over."""


class LoopStorage(Storage):
    """Counters for fixed windows, used by one event loop only.

    `limits` has a memory storage of its own, for threads: it starts one for every 10 ms in which something is counted.
    """

    STORAGE_SCHEME = ["loop"]  # noqa: RUF012 - as the base class declares it
    base_exceptions = ValueError

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, **_: str) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._counters: dict[str, tuple[int, float]] = {}
        self._hits = 0

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = time.time()
        count, expires_at = self._counters.get(key, (0, 0.0))
        if expires_at <= now:
            count, expires_at = 0, now + expiry
        self._counters[key] = count + amount, expires_at
        self._hits += 1
        if self._hits % TIDY_EVERY == 0:
            self._tidy(now)
        return count + amount

    def get(self, key: str) -> int:
        count, expires_at = self._counters.get(key, (0, 0.0))
        return count if expires_at > time.time() else 0

    def get_expiry(self, key: str) -> float:
        return self._counters.get(key, (0, time.time()))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        count = len(self._counters)
        self._counters.clear()
        return count

    def clear(self, key: str) -> None:
        self._counters.pop(key, None)

    def _tidy(self, now: float) -> None:
        self._counters = {key: counter for key, counter in self._counters.items() if counter[1] > now}


class Throttle:
    """One process's limits: on AI calls per user, on logins per account and (by `limiter`'s decorator) per address, and
    on WebSockets opened per address, as many as logins.

    `login` and `ai` are in the notation of `limits` ("600/minute", several joined by ";"), or "off".
    """

    def __init__(self, *, login: str, ai: str) -> None:
        self.limiter = Limiter(key_func=get_remote_address, key_style="endpoint", storage_uri="loop://")
        self.login = login
        self._login_limits = _parse(login)
        self._ai_limits = _parse(ai)

    def check(self, caller: Principal) -> None:
        """Count one AI call of this user. Raises RateLimited."""
        self._hit(self._ai_limits, "ai", str(caller.user_id))

    def check_login(self, account: str) -> None:
        """Count one attempt to log in to this account, whether or not it exists. Raises RateLimited."""
        self._hit(self._login_limits, "login", account)

    def check_keys(self, caller: Principal) -> None:
        """Count one API key made by this user, as often as logins. Raises RateLimited."""
        self._hit(self._login_limits, "keys", str(caller.user_id))

    def check_handshake(self, address: str) -> None:
        """Count one WebSocket that is opened from this address, by whomever. Raises RateLimited."""
        self._hit(self._login_limits, "handshake", address)

    def _hit(self, limits: tuple[RateLimitItem, ...], *key: str) -> None:
        strategy = self.limiter.limiter
        for limit in limits:
            if not strategy.hit(limit, *key):
                resets_at, _ = strategy.get_window_stats(limit, *key)
                raise RateLimited(retry_after_s=max(1, math.ceil(resets_at - time.time())))


def _parse(notation: str) -> tuple[RateLimitItem, ...]:
    return () if notation == "off" else tuple(parse_many(notation))
