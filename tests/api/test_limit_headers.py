"""The limits of a caller in the headers of OpenAI, of Anthropic and of the IETF."""

import pytest

from tollkeeper.api.limit_headers import ANTHROPIC, IETF, OPENAI, duration, form_of, limits_of, limits_of_refusal
from tollkeeper.api.openapi_parts import HEADERS
from tollkeeper.errors import NotFound, QuotaExceeded, QuotaHeld, RateLimited
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.windows import Period
from tollkeeper.rate_limits.request_rate import RequestRate

NOW_MS = 1_700_000_000_000
DAY = Balance("user-day", Unit.TOKENS, Period.DAY, 1_000, 400, 100, NOW_MS + 360_000)
WIDE = Balance("tenant-total", Unit.TOKENS, Period.TOTAL, 1_000_000, 0, 0, None)
MONEY = Balance("user-month-usd", Unit.MICRO_USD, Period.MONTH, 10, 9, 0, NOW_MS)

CALLS = Balance("user-hour-requests", Unit.REQUESTS, Period.HOUR, 50, 1, 0, NOW_MS + 1_001)
IN_FLIGHT = Balance("user-total-concurrency", Unit.CONCURRENCY, Period.TOTAL, 2, 0, 2, None)
RATE = RequestRate("calls-60s", 1_200, 120, 60, NOW_MS + 30_500)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (1, "1s"),
        (59_000, "59s"),
        (59_001, "1m0s"),
        (360_000, "6m0s"),
        (3_600_000, "1h0m0s"),
        (86_399_000, "23h59m59s"),
        (31 * 86_400_000, "744h0m0s"),
    ],
)
def test_a_time_span_is_written_as_openai_writes_it(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


def test_sdks_find_the_tightest_limits_in_tokens_and_in_requests_where_they_look() -> None:
    limits = limits_of([WIDE, MONEY, DAY, CALLS], RATE, NOW_MS)
    assert OPENAI.render(limits) == {
        "x-ratelimit-limit-requests": "1200",
        "x-ratelimit-remaining-requests": "120",
        "x-ratelimit-reset-requests": "31s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert ANTHROPIC.render(limits) == {
        "anthropic-ratelimit-requests-limit": "1200",
        "anthropic-ratelimit-requests-remaining": "120",
        "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:50.500000Z",
        "anthropic-ratelimit-tokens-limit": "1000",
        "anthropic-ratelimit-tokens-remaining": "500",
        "anthropic-ratelimit-tokens-reset": "2023-11-14T22:19:20Z",
    }
    assert OPENAI.render(limits).keys() <= HEADERS.keys() == HEADERS.keys() | set(ANTHROPIC.names)


def test_a_quota_that_never_resets_has_no_reset_and_money_is_not_for_sdks() -> None:
    only = limits_of([WIDE], None, NOW_MS)
    assert OPENAI.render(only).keys() == {"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens"}
    assert OPENAI.render(limits_of([MONEY, IN_FLIGHT], None, NOW_MS)) == {}


def test_the_ietf_fields_have_the_tightest_quota_in_each_unit_and_the_rate() -> None:
    headers = IETF.render(limits_of([WIDE, MONEY, DAY, CALLS, IN_FLIGHT], RATE, NOW_MS))
    assert headers == {
        "RateLimit-Policy": '"user-day";q=1000;qu="tokens";w=86400, "user-month-usd";q=10;qu="micro-usd",'
        ' "user-hour-requests";q=50;w=3600, "calls-60s";q=1200;w=60',
        "RateLimit": '"user-day";r=500;t=360, "user-month-usd";r=1;t=0, "user-hour-requests";r=49;t=2,'
        ' "calls-60s";r=120;t=31',
    }
    assert IETF.render(limits_of([], None, NOW_MS)) == {}
    assert IETF.render(limits_of([WIDE], None, NOW_MS))["RateLimit"] == '"tenant-total";r=1000000'


def test_a_name_that_a_structured_field_cannot_have_is_left_out() -> None:
    limits = limits_of([DAY._replace(quota='tag"\r\nX-Injected: 1'), MONEY._replace(quota="größe")], RATE, NOW_MS)
    assert IETF.render(limits)["RateLimit"] == '"calls-60s";r=120;t=31'


def test_a_refusal_is_described_by_the_limit_that_refuses() -> None:
    spent = QuotaExceeded(
        quota="user-day", unit="tokens", period="day", limit=100, used=90, reserved=5, resets_ms=NOW_MS + 9_000
    )
    assert IETF.render(limits_of_refusal(spent, NOW_MS)) == {
        "RateLimit-Policy": '"user-day";q=100;qu="tokens";w=86400',
        "RateLimit": '"user-day";r=5;t=9',
    }
    held = QuotaHeld(
        quota="user-total-concurrency", unit="concurrency", period="total", limit=2, reserved=2, retry_after_s=1
    )
    assert IETF.render(limits_of_refusal(held, NOW_MS)) == {
        "RateLimit-Policy": '"user-total-concurrency";q=2;qu="concurrent-requests"',
        "RateLimit": '"user-total-concurrency";r=0;t=1',
    }
    fast = RateLimited(policy="calls-60s", limit=1200, window_s=60, retry_after_s=7)
    assert OPENAI.render(limits_of_refusal(fast, NOW_MS)) == {
        "x-ratelimit-limit-requests": "1200",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "7s",
    }
    for error in (RateLimited(retry_after_s=1), NotFound()):
        assert IETF.render(limits_of_refusal(error, NOW_MS)) == {}


@pytest.mark.parametrize(
    ("path", "headers", "form"),
    [
        ("/me", [], IETF),
        ("/v1", [], IETF),
        ("/v1/models", [], OPENAI),
        ("/v1/models", [(b"anthropic-version", b"2023-06-01")], ANTHROPIC),
        ("/v1/messages", [], ANTHROPIC),
        ("/v1/messages/batches", [], ANTHROPIC),
        ("/v1/messagesx", [], OPENAI),
    ],
)
def test_the_form_is_that_of_the_api_that_is_asked(path: str, headers: list[tuple[bytes, bytes]], form: object) -> None:
    assert form_of({"path": path, "headers": headers}) is form
