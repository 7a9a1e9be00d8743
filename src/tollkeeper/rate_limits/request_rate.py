"""A limit on the rate of requests, and what a caller has left of it."""

from typing import NamedTuple

from limits import RateLimitItem


class RequestRate(NamedTuple):
    """What a caller has left of a limit: `limit` requests in `window_s` seconds. `name` is the limit's in headers.

    `remaining` is negative for a request beyond the limit. The window ends at `resets_ms`, in milliseconds since the
    epoch.
    """

    name: str
    limit: int
    remaining: int
    window_s: int
    resets_ms: int


class RateLimit(NamedTuple):
    """One limit. Of its `item`, `amount` is how many requests it admits in `window_s` seconds."""

    item: RateLimitItem
    name: str
    amount: int
    window_s: int

    def rate(self, count: int, resets_ms: int) -> RequestRate:
        """What is left after so many requests."""
        return RequestRate(self.name, self.amount, self.amount - count, self.window_s, resets_ms)
