"""The headers in which OpenAI and Anthropic describe limits, with the caller's tightest quota in tokens."""

import pytest

from tollkeeper.api.compat.limit_headers import ANTHROPIC, OPENAI, duration
from tollkeeper.quota.rules.models import Unit
from tollkeeper.quota.rules.operations import Balance
from tollkeeper.quota.rules.windows import Period

NOW_MS = 1_700_000_000_000
DAY = Balance("user-day", Unit.TOKENS, Period.DAY, 1_000, 400, 100, NOW_MS + 360_000)
WIDE = Balance("tenant-total", Unit.TOKENS, Period.TOTAL, 1_000_000, 0, 0, None)
MONEY = Balance("user-month", Unit.MICRO_USD, Period.MONTH, 10, 9, 0, NOW_MS)


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


def test_the_tightest_quota_in_tokens_is_described_in_both_forms() -> None:
    balances = [WIDE, MONEY, DAY]
    assert OPENAI.render_tightest(balances, NOW_MS) == {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert ANTHROPIC.render_tightest(balances, NOW_MS) == {
        "anthropic-ratelimit-tokens-limit": "1000",
        "anthropic-ratelimit-tokens-remaining": "500",
        "anthropic-ratelimit-tokens-reset": "2023-11-14T22:19:20Z",
    }


def test_a_quota_that_never_resets_has_no_reset_and_money_is_not_described() -> None:
    assert OPENAI.render_tightest([WIDE], NOW_MS).keys() == {"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens"}
    assert OPENAI.render_tightest([MONEY], NOW_MS) == {}
