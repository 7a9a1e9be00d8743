"""Limits on the rate of requests, with slowapi's `Limiter`. The ledger limits tokens.

Each process counts for itself, in memory.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from limits import RateLimitItem, parse_many
from limits.storage import Storage
from slowapi import Limiter
from slowapi.util import get_remote_address

from tollkeeper.clock import Clock
from tollkeeper.errors import RateLimited
from tollkeeper.principal import Principal
from tollkeeper.server.limits import source_of

HITS_PER_CLEANUP = 10_000
"""How many hits start a search for expired counters."""

MAX_SOCKETS_PER_USER = 100
"""Open WebSockets of one user in one process."""

LOGIN_SETTING = "TOLLKEEPER_RATE_LIMIT_LOGIN"
AI_SETTING = "TOLLKEEPER_RATE_LIMIT_AI"
READS_SETTING = "TOLLKEEPER_RATE_LIMIT_READS"
HANDSHAKES_SETTING = "TOLLKEEPER_RATE_LIMIT_HANDSHAKES"


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

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now_s = self._clock.now_ms() / 1000
        count, expires_s = self._counters.get(key, (0, 0.0))
        if expires_s <= now_s:
            count, expires_s = 0, now_s + expiry
        self._counters[key] = count + amount, expires_s
        self._hits += 1
        if self._hits % HITS_PER_CLEANUP == 0:
            self._delete_expired(now_s)
        return count + amount

    def get(self, key: str) -> int:
        count, expires_s = self._counters.get(key, (0, 0.0))
        return count if expires_s > self._clock.now_ms() / 1000 else 0

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


class _Limits(NamedTuple):
    """What a setting allows. All of its items apply; none if it is "off"."""

    setting: str
    items: tuple[RateLimitItem, ...]


class Throttle:
    """The rate limits of one process: AI calls per user, logins per account, API keys created per user, other requests
    per user, and WebSocket handshakes and documents per address. `limiter` limits logins per address, too, as a
    decorator of the route.

    `login`, `ai`, `reads` and `handshakes` are in the notation of `limits` ("600/minute", several joined by ";"), or
    "off". `reads` applies to authenticated requests that are not metered, and to documents; `login` to logins, failed
    authentications and new keys.
    """

    def __init__(self, *, login: str, ai: str, reads: str = "off", handshakes: str = "off", clock: Clock) -> None:
        self.limiter = Limiter(
            key_func=lambda request: source_of(get_remote_address(request)),
            key_style="endpoint",
            storage_uri="loop://",
            storage_options={"clock": clock},  # type: ignore[dict-item]
        )
        self.login = login
        self._clock = clock
        self._login_limits = _parse(LOGIN_SETTING, login)
        self._ai_limits = _parse(AI_SETTING, ai)
        self._read_limits = _parse(READS_SETTING, reads)
        self._handshake_limits = _parse(HANDSHAKES_SETTING, handshakes)
        self._sockets: Counter[int] = Counter()

    @contextmanager
    def open_socket(self, caller: Principal) -> Iterator[None]:
        """Count an open WebSocket of this user for the block. Raises RateLimited beyond MAX_SOCKETS_PER_USER."""
        if self._sockets[caller.user_id] >= MAX_SOCKETS_PER_USER:
            raise RateLimited(f"A user may have {MAX_SOCKETS_PER_USER} open connections. Close one.", retry_after_s=1)
        self._sockets[caller.user_id] += 1
        try:
            yield
        finally:
            self._sockets[caller.user_id] -= 1
            if not self._sockets[caller.user_id]:
                del self._sockets[caller.user_id]

    def check(self, caller: Principal) -> None:
        """Count one AI call of this user. Raises RateLimited."""
        self._hit(self._ai_limits, "ai", str(caller.user_id))

    def check_read(self, caller: Principal) -> None:
        """Count one request of this user that is not metered. Raises RateLimited."""
        self._hit(self._read_limits, "reads", str(caller.user_id))

    def check_document(self, address: str) -> None:
        """Count one request for a document from this address, which needs no authentication. Raises RateLimited."""
        self._hit(self._read_limits, "documents", source_of(address))

    def check_sign_on(self, address: str) -> None:
        """Count one step of a single sign-on from this address. Raises RateLimited.

        Failures count besides, as those of other authentications do.
        """
        self._hit(self._read_limits, "sign_on", source_of(address))

    def check_login(self, account: str, address: str) -> None:
        """Count one attempt to log in to this account, whether or not it exists, from this address.

        Raises RateLimited. Attempts from other addresses do not count, so that a stranger cannot lock an account.
        """
        self._hit(self._login_limits, "login", account, source_of(address))

    def check_failures(self, address: str) -> None:
        """Raise RateLimited when too many authentications from this address (IPv6: its /64 network) have failed."""
        self._hit(self._login_limits, "failed", source_of(address), cost=0)

    def count_failure(self, address: str) -> None:
        """Count one failed authentication from this address. Raises RateLimited."""
        self._hit(self._login_limits, "failed", source_of(address))

    def check_refresh(self, session_id: str) -> None:
        """Count one use of a genuine refresh token of this session. Raises RateLimited."""
        self._hit(self._login_limits, "refresh", session_id)

    def check_key_creation(self, caller: Principal) -> None:
        """Count one API key that this user creates. Raises RateLimited."""
        self._hit(self._login_limits, "keys", str(caller.user_id))

    def check_handshake(self, address: str) -> None:
        """Count one WebSocket handshake from this address, before it is authenticated. Raises RateLimited.

        An office behind one address opens many when a server restarts; a wrong credential counts as a failure besides.
        """
        self._hit(self._handshake_limits, "handshake", source_of(address))

    def _hit(self, limits: _Limits, *key: str, cost: int = 1) -> None:
        """Count; or only check, where the cost is 0."""
        strategy = self.limiter.limiter
        for limit in limits.items:
            if not (strategy.hit(limit, *key) if cost else strategy.test(limit, *key)):
                resets_s, _ = strategy.get_window_stats(limit, *key)
                raise refusal(limits.setting, limit, math.ceil(resets_s - self._clock.now_ms() / 1000))


def refusal(setting: str, limit: RateLimitItem, wait_s: int) -> RateLimited:
    """The error for a request beyond a limit. It names the setting, so that an operator knows what to change."""
    return RateLimited(f"Too many requests: at most {limit} ({setting}).", retry_after_s=max(1, wait_s))


def _parse(setting: str, notation: str) -> _Limits:
    return _Limits(setting, () if notation == "off" else tuple(parse_many(notation)))
