"""The errors of calls that may pass later. `errors` shows the whole tree, and is where they are imported from."""

from tollkeeper.errors.base import TollkeeperError

SDK_WAIT_S = 60
"""The longest `Retry-After` that the SDKs of OpenAI and Anthropic wait for (`_calculate_retry_timeout` in their
`_base_client.py`); older ones wait for twice as much.
"""


class Refusal(TollkeeperError):
    """The same call may pass after `retry_after_s` seconds. None: waiting does not help."""

    def __init__(self, detail: str | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class QuotaRefusal(Refusal):
    """A quota does not admit the call. `limit`, `used`, `reserved` and `needed` are in `unit`: that of the quota.

    `period` is the length of the quota's window; empty where there is no quota.
    """

    def __init__(
        self,
        detail: str | None = None,
        *,
        quota: str = "",
        unit: str = "tokens",
        period: str = "",
        limit: int = 0,
        used: int = 0,
        reserved: int = 0,
        needed: int = 0,
        resets_ms: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.quota, self.unit, self.period, self.resets_ms = quota, unit, period, resets_ms
        self.limit, self.used, self.reserved, self.needed = limit, used, reserved, needed

    @property
    def never_fits(self) -> bool:
        """Whether the call needs more than a whole window of the quota has."""
        return 0 < self.limit < self.needed


class QuotaExceeded(QuotaRefusal):
    """`fallback_model` is to answer the call, if a quota that has no room for it names one."""

    code = "quota_exceeded"
    sentence = "The quota does not have room for this call."
    fallback_model: str | None = None

    @property
    def passes_soon(self) -> bool:
        """Whether the next window has room for the call, and begins before the SDKs of OpenAI and Anthropic give up."""
        return self.retry_after_s is not None and self.retry_after_s <= SDK_WAIT_S and self.needed <= self.limit


class QuotaHeld(QuotaRefusal):
    code = "quota_held"
    sentence = "The room in this quota is held by calls in flight."


class RateLimited(Refusal):
    """`setting` names the variable that sets the limit; empty for a limit that is fixed.

    `policy` names the limit in headers: `limit` requests in `window_s` seconds; empty if it is not one on a rate.
    """

    code = "rate_limited"
    sentence = "Too many requests."

    def __init__(
        self,
        detail: str | None = None,
        *,
        setting: str = "",
        policy: str = "",
        limit: int = 0,
        window_s: int = 0,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.setting, self.policy, self.limit, self.window_s = setting, policy, limit, window_s


class Overloaded(Refusal):
    code = "overloaded"
    sentence = "The server is at capacity. Try again in a moment."


class TooManyJobs(Refusal):
    """The user has as many jobs that have not ended as a setting allows."""

    code = "too_many_jobs"
    sentence = "You have too many jobs that have not ended. Wait until one has ended, or cancel one."
