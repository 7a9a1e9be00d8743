"""Windows follow the calendar in UTC, to the millisecond, and tile time without a gap."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollkeeper.quota.rules.windows import Period, span

moments = st.integers(0, int(datetime(2400, 1, 1, tzinfo=UTC).timestamp()) * 1000)
calendar = st.sampled_from([period for period in Period if period is not Period.TOTAL])

same_everywhere = settings(deadline=None, derandomize=True, database=None)


def ms(text: str) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


@pytest.mark.parametrize(
    ("period", "now", "starts", "ends"),
    [
        (Period.MINUTE, "2026-02-28T23:59:59.999", "2026-02-28T23:59", "2026-03-01T00:00"),
        (Period.MINUTE, "2026-03-01T00:00:00.000", "2026-03-01T00:00", "2026-03-01T00:01"),
        (Period.HOUR, "2026-12-31T23:59:59.999", "2026-12-31T23:00", "2027-01-01T00:00"),
        (Period.HOUR, "2026-12-31T23:00:00.000", "2026-12-31T23:00", "2027-01-01T00:00"),
        (Period.DAY, "2024-02-29T12:00:00.000", "2024-02-29T00:00", "2024-03-01T00:00"),
        (Period.DAY, "2026-03-29T02:30:00.000", "2026-03-29T00:00", "2026-03-30T00:00"),
        (Period.MONTH, "2024-02-29T23:59:59.999", "2024-02-01T00:00", "2024-03-01T00:00"),
        (Period.MONTH, "2025-02-28T23:59:59.999", "2025-02-01T00:00", "2025-03-01T00:00"),
        (Period.MONTH, "2025-03-01T00:00:00.000", "2025-03-01T00:00", "2025-04-01T00:00"),
        (Period.MONTH, "2100-02-28T00:00:00.000", "2100-02-01T00:00", "2100-03-01T00:00"),
        (Period.MONTH, "2026-12-31T23:59:59.999", "2026-12-01T00:00", "2027-01-01T00:00"),
        (Period.MONTH, "2026-01-31T00:00:00.000", "2026-01-01T00:00", "2026-02-01T00:00"),
        (Period.MONTH, "1970-01-01T00:00:00.000", "1970-01-01T00:00", "1970-02-01T00:00"),
    ],
)
def test_a_window_begins_and_ends_with_the_calendar(period: Period, now: str, starts: str, ends: str) -> None:
    assert span(period, ms(now)) == (ms(starts), ms(ends))


@same_everywhere
@given(moments)
def test_the_total_never_ends(now: int) -> None:
    assert span(Period.TOTAL, now) == (0, None)


@same_everywhere
@given(calendar, moments)
def test_now_is_in_its_window(period: Period, now: int) -> None:
    starts, ends = span(period, now)
    assert ends is not None
    assert starts <= now < ends


@same_everywhere
@given(calendar, moments)
def test_windows_tile_time(period: Period, now: int) -> None:
    """Both ends of a window say the same window; the next begins where it ends."""
    starts, ends = span(period, now)
    assert ends is not None
    assert span(period, starts) == span(period, ends - 1) == (starts, ends)
    assert span(period, ends)[0] == ends


@same_everywhere
@given(moments)
def test_a_shorter_window_lies_within_each_longer_one(now: int) -> None:
    spans = [span(period, now) for period in sorted(Period, key=lambda period: period.rank)]
    for (starts, ends), (longer_starts, longer_ends) in pairwise(spans):
        assert longer_starts <= starts
        assert longer_ends is None or (ends is not None and ends <= longer_ends)
