"""How fast one may call: coarse limits on requests, over slowapi's `Limiter`. Tokens are the ledger's matter.

Limits count per process, in memory.
"""

import math
import time

from limits import RateLimitItem, parse_many
from slowapi import Limiter
from slowapi.util import get_remote_address

from tollkeeper.errors import RateLimited
from tollkeeper.principal import Principal


class Throttle:
    """One process's limits: on AI calls per user, on logins per account and (by `limiter`'s decorator) per address.

    `login` and `ai` are in the notation of `limits` ("600/minute", several joined by ";"), or "off".
    """

    def __init__(self, *, login: str, ai: str) -> None:
        self.limiter = Limiter(key_func=get_remote_address, key_style="endpoint", storage_uri="memory://")
        self.login = login
        self._login_limits = _parse(login)
        self._ai_limits = _parse(ai)

    def check(self, caller: Principal) -> None:
        """Count one AI call of this user. Raises RateLimited."""
        self._hit(self._ai_limits, "ai", str(caller.user_id))

    def check_login(self, account: str) -> None:
        """Count one attempt to log in to this account, whether or not it exists. Raises RateLimited."""
        self._hit(self._login_limits, "login", account)

    def _hit(self, limits: tuple[RateLimitItem, ...], *key: str) -> None:
        strategy = self.limiter.limiter
        for limit in limits:
            if not strategy.hit(limit, *key):
                resets_at, _ = strategy.get_window_stats(limit, *key)
                raise RateLimited(retry_after_s=max(1, math.ceil(resets_at - time.time())))


def _parse(notation: str) -> tuple[RateLimitItem, ...]:
    return () if notation == "off" else tuple(parse_many(notation))
