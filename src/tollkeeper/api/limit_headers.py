"""The limits of a caller in headers: in the forms of OpenAI and Anthropic on `/v1`, on all other paths in the IETF's.

Sources: OpenAI, "Rate limits", section "Rate limits in headers"; Anthropic, "Rate limits", section "Response headers";
draft-ietf-httpapi-ratelimit-headers-11, sections 3 and 4.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from starlette.types import Scope

from tollkeeper.api.formats import iso
from tollkeeper.api.sdk_paths import is_anthropic_request, is_sdk_request
from tollkeeper.errors import QuotaHeld, QuotaRefusal, RateLimited, TollkeeperError
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.windows import Period
from tollkeeper.rate_limits.request_rate import RequestRate

_WINDOWS = {
    Period.MINUTE: ";w=60",
    Period.HOUR: ";w=3600",
    Period.DAY: ";w=86400",
    Period.WEEK: ";w=604800",
    Period.MONTH: "",
    Period.TOTAL: "",
}
"""The parameter of windows, in seconds. Months differ too much in length to be described by one number."""
_QUOTA_UNITS = {
    Unit.TOKENS: ';qu="tokens"',
    Unit.MICRO_USD: ';qu="micro-usd"',
    Unit.REQUESTS: "",
    Unit.CONCURRENCY: ';qu="concurrent-requests"',
}
"""The units of section 3.1.2 of the draft, and two of our own, so that no client takes tokens for requests."""
LIMIT_HEADERS = "tollkeeper.limit_headers"
"""Where the scope of a request has the headers of its limits, for the outermost middleware."""
_TEXT = re.compile(r"[ !#-\[\]-~]*")
"""What a String of RFC 9651 can contain unescaped."""


class Limits(NamedTuple):
    """What limits a caller at `now_ms`: quotas with their balances, and the rate of requests, if that is limited."""

    balances: Sequence[Balance]
    rate: RequestRate | None
    now_ms: int


class LimitHeaders(Protocol):
    """How one API describes limits. `names` are the headers."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def render(self, limits: Limits) -> dict[str, str]: ...


class SdkHeaders:
    """The tightest quota in tokens, and the tightest limit in requests, in headers that SDKs know.

    `name` has the places `{what}` (limit, remaining, reset) and `{unit}`. `format_reset` gets the time of the reset and
    the present time, both in milliseconds since the epoch.
    """

    def __init__(self, name: str, format_reset: Callable[[int, int], str]) -> None:
        units = ("requests", "tokens")
        self.names = tuple(
            name.format(what=what, unit=unit) for unit in units for what in ("limit", "remaining", "reset")
        )
        self._format_reset = format_reset

    def render(self, limits: Limits) -> dict[str, str]:
        """The headers; none for a unit that has no limit, and no reset for a limit that never resets."""
        tightest, rate = _tightest_by_unit(limits.balances), limits.rate
        headers: dict[str, str] = {}
        requests = tightest.get(Unit.REQUESTS)
        if rate is not None and (requests is None or rate.remaining * requests.limit < requests.remaining * rate.limit):
            self._describe(headers, 0, rate.limit, rate.remaining, rate.resets_ms, limits.now_ms)
        elif requests is not None:
            self._describe(headers, 0, requests.limit, requests.remaining, requests.resets_ms, limits.now_ms)
        if (tokens := tightest.get(Unit.TOKENS)) is not None:
            self._describe(headers, 3, tokens.limit, tokens.remaining, tokens.resets_ms, limits.now_ms)
        return headers

    def _describe(
        self, headers: dict[str, str], first: int, limit: int, remaining: int, resets_ms: int | None, now_ms: int
    ) -> None:
        """Add the headers from this place in `names` on."""
        headers[self.names[first]], headers[self.names[first + 1]] = str(limit), str(remaining)
        if resets_ms is not None:
            headers[self.names[first + 2]] = self._format_reset(resets_ms, now_ms)


class IetfHeaders:
    """The tightest quota in each unit, and the limit on the rate of requests, in `RateLimit-Policy` and `RateLimit`."""

    names = ("RateLimit-Policy", "RateLimit")

    def render(self, limits: Limits) -> dict[str, str]:
        policies, available = [], []
        for balance in _tightest_by_unit(limits.balances).values():
            if _TEXT.fullmatch(balance.quota):
                policies.append(
                    f'"{balance.quota}";q={balance.limit}{_QUOTA_UNITS[balance.unit]}{_WINDOWS[balance.period]}'
                )
                available.append(f'"{balance.quota}";r={balance.remaining}{_effective_window(balance, limits.now_ms)}')
        if (rate := limits.rate) is not None:
            policies.append(f'"{rate.name}";q={rate.limit};w={rate.window_s}')
            available.append(f'"{rate.name}";r={rate.remaining};t={_seconds_until(rate.resets_ms, limits.now_ms)}')
        if not policies:
            return {}
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(available)}


def _tightest_by_unit(balances: Sequence[Balance]) -> dict[Unit, Balance]:
    """The quota of each unit with the lowest ratio of what remains."""
    found: dict[Unit, Balance] = {}
    for balance in balances:
        other = found.get(balance.unit)
        if other is None or balance.remaining * other.limit < other.remaining * balance.limit:
            found[balance.unit] = balance
    return found


def _effective_window(balance: Balance, now_ms: int) -> str:
    return "" if balance.resets_ms is None else f";t={_seconds_until(balance.resets_ms, now_ms)}"


def _seconds_until(moment_ms: int, now_ms: int) -> int:
    return max(0, -(-(moment_ms - now_ms) // 1_000))


def duration(milliseconds: int) -> str:
    """A time span as OpenAI writes it, rounded up to seconds: `6m0s`."""
    minutes, seconds = divmod(-(-max(0, milliseconds) // 1_000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


OPENAI = SdkHeaders("x-ratelimit-{what}-{unit}", lambda resets_ms, now_ms: duration(resets_ms - now_ms))
ANTHROPIC = SdkHeaders("anthropic-ratelimit-{unit}-{what}", lambda resets_ms, _: iso(resets_ms))
IETF = IetfHeaders()


def limits_of(balances: Sequence[Balance], rate: RequestRate | None, now_ms: int) -> Limits:
    """The limits of a call. Concurrency is not among them: it is not spent, and the call holds a part of it itself; nor
    are quotas that only report.
    """
    limiting = [one for one in balances if one.unit is not Unit.CONCURRENCY and not one.report_only]
    return Limits(limiting, rate, now_ms)


def form_of(scope: Scope) -> LimitHeaders:
    """The form in which the client of this request reads limits."""
    if not is_sdk_request(scope):
        return IETF
    return ANTHROPIC if is_anthropic_request(scope) else OPENAI


def note_limits(scope: Scope, limits: Limits) -> None:
    """Have the limits sent in the headers of the response to this request, in place of those that were noted before."""
    headers = form_of(scope).render(limits)
    scope[LIMIT_HEADERS] = [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def limits_of_refusal(error: TollkeeperError, now_ms: int) -> Limits:
    """The limit that has refused a request; none for another error, and for a limit without numbers."""
    if isinstance(error, RateLimited) and error.policy and error.retry_after_s is not None:
        ends_ms = now_ms + error.retry_after_s * 1_000
        return Limits((), RequestRate(error.policy, error.limit, 0, error.window_s, ends_ms), now_ms)
    if not isinstance(error, QuotaRefusal):
        return Limits((), None, now_ms)
    resets_ms = error.resets_ms
    if isinstance(error, QuotaHeld) and error.retry_after_s is not None:  # more is available before the reset
        resets_ms = now_ms + error.retry_after_s * 1_000
    period = Period(error.period or Period.TOTAL)
    balance = Balance(error.quota, Unit(error.unit), period, error.limit, error.used, error.reserved, resets_ms)
    return Limits([balance], None, now_ms)
