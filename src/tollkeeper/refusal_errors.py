"""The errors of calls that may pass later. `errors.py` shows the whole tree, and is where they are imported from."""

from tollkeeper.base_error import TollkeeperError


class Refusal(TollkeeperError):
    """The same call may pass after `retry_after_s` seconds. None: waiting does not help."""

    def __init__(self, detail: str | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class QuotaRefusal(Refusal):
    """A quota does not admit the call. `limit`, `used`, `reserved` and `needed` are in `unit`: tokens or micro_usd."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        quota: str = "",
        unit: str = "tokens",
        limit: int = 0,
        used: int = 0,
        reserved: int = 0,
        needed: int = 0,
        resets_ms: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.quota, self.unit, self.resets_ms = quota, unit, resets_ms
        self.limit, self.used, self.reserved, self.needed = limit, used, reserved, needed

    @property
    def never_fits(self) -> bool:
        """Whether the call needs more than a whole window of the quota has."""
        return 0 < self.limit < self.needed


class QuotaExceeded(QuotaRefusal):
    code = "quota_exceeded"
    sentence = "The quota does not have room for this call."


class QuotaHeld(QuotaRefusal):
    code = "quota_held"
    sentence = "The room in this quota is held by calls in flight."


class RateLimited(Refusal):
    code = "rate_limited"
    sentence = "Too many requests."


class Overloaded(Refusal):
    code = "overloaded"
    sentence = "The server is at capacity. Try again in a moment."
