"""Windows follow the tenant's calendar, to the millisecond, and tile time without a gap."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from calendar_model import natural
from hypothesis import given, settings
from hypothesis import strategies as st

from tollkeeper.quota.rules.windows import Calendar, Period, earliest_start_ms, new_span, span
from tollkeeper.quota.time_zones import time_zone_names


def ms_of_year(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1000


moments = st.integers(0, int(datetime(2400, 1, 1, tzinfo=UTC).timestamp()) * 1000)
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"])
recent = st.integers(ms_of_year(2024), ms_of_year(2030))
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


@pytest.mark.parametrize(
    ("period", "zone", "reset_day", "now", "starts", "ends"),
    [
        (Period.WEEK, "UTC", 1, "2026-11-30T00:00", "2026-11-30T00:00", "2026-12-07T00:00"),
        (Period.WEEK, "UTC", 1, "2026-11-29T23:59:59.999", "2026-11-23T00:00", "2026-11-30T00:00"),
        (Period.DAY, "Europe/Berlin", 1, "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),  # 23 hours
        (Period.DAY, "Europe/Berlin", 1, "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),  # 25 hours
        (Period.DAY, "Asia/Kathmandu", 1, "2026-06-01T18:14:59.999", "2026-05-31T18:15", "2026-06-01T18:15"),
        (Period.WEEK, "Europe/Berlin", 1, "2026-03-26T12:00", "2026-03-22T23:00", "2026-03-29T22:00"),
        (Period.DAY, "Africa/Cairo", 1, "2026-04-24T12:00", "2026-04-23T22:00", "2026-04-24T21:00"),  # no midnight
        (Period.DAY, "America/Havana", 1, "2024-11-03T12:00", "2024-11-03T04:00", "2024-11-04T05:00"),  # two midnights
        (Period.MONTH, "UTC", 31, "2026-02-27T12:00", "2026-01-31T00:00", "2026-02-28T00:00"),
        (Period.MONTH, "UTC", 31, "2026-02-28T00:00", "2026-02-28T00:00", "2026-03-31T00:00"),
        (Period.MONTH, "UTC", 30, "2024-02-29T00:00", "2024-02-29T00:00", "2024-03-30T00:00"),
        (Period.MONTH, "UTC", 15, "2026-01-14T12:00", "2025-12-15T00:00", "2026-01-15T00:00"),
        (Period.MONTH, "America/New_York", 1, "2026-03-01T04:59", "2026-02-01T05:00", "2026-03-01T05:00"),
        (Period.MONTH, "America/New_York", 1, "2026-03-01T05:00", "2026-03-01T05:00", "2026-04-01T04:00"),
        (Period.HOUR, "Asia/Kathmandu", 31, "2026-06-01T18:14", "2026-06-01T18:00", "2026-06-01T19:00"),
    ],
)
def test_a_window_of_a_calendar(period: Period, zone: str, reset_day: int, now: str, starts: str, ends: str) -> None:
    assert span(period, ms(now), Calendar(zone, reset_day)) == (ms(starts), ms(ends))


@pytest.mark.parametrize(
    ("period", "zone", "reset_day", "previous_end", "ends"),
    [
        (Period.DAY, "Europe/Berlin", 1, "2026-12-01T00:00", "2026-12-01T23:00"),
        (Period.DAY, "America/New_York", 1, "2026-12-01T00:00", "2026-12-02T05:00"),
        (Period.WEEK, "America/New_York", 1, "2026-12-07T00:00", "2026-12-14T05:00"),
        (Period.MONTH, "UTC", 15, "2026-12-01T00:00", "2027-01-15T00:00"),
        (Period.MONTH, "UTC", 29, "2026-12-01T00:00", "2026-12-29T00:00"),
        (Period.MONTH, "Europe/Berlin", 31, "2026-12-01T00:00", "2026-12-30T23:00"),
    ],
)
def test_the_window_after_a_change_begins_where_the_old_one_ends_and_is_not_short(
    period: Period, zone: str, reset_day: int, previous_end: str, ends: str
) -> None:
    starts = ms(previous_end)
    found = new_span(period, starts, Calendar(zone, reset_day), previous_end_ms=starts, next_start_ms=None)
    assert found == (starts, ms(ends))
    later = new_span(period, ms(ends), Calendar(zone, reset_day), previous_end_ms=ms(ends), next_start_ms=None)
    assert later == span(period, ms(ends), Calendar(zone, reset_day))


def test_a_window_ends_where_a_later_one_has_begun_before_a_clock_was_set_back() -> None:
    now, later = ms("2026-12-01T12:00"), ms("2026-12-01T18:00")
    assert new_span(Period.DAY, now, Calendar(), previous_end_ms=None, next_start_ms=later)[1] == later


@same_everywhere
@given(st.sampled_from([Period.DAY, Period.WEEK, Period.MONTH]), zones, st.integers(1, 31), recent)
def test_windows_of_a_calendar_are_those_of_the_model(period: Period, zone: str, reset_day: int, now: int) -> None:
    found = span(period, now, Calendar(zone, reset_day))
    assert found == natural(str(period), (zone, reset_day), now)
    assert earliest_start_ms(period, now) <= found[0]


def test_every_time_zone_has_days() -> None:
    for zone in time_zone_names():
        starts, ends = span(Period.DAY, ms("2026-11-30T12:00"), Calendar(zone))
        assert ends is not None
        assert starts <= ms("2026-11-30T12:00") < ends, zone


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
    """Weeks do not lie within months."""
    nested = [period for period in Period if period is not Period.WEEK]
    spans = [span(period, now) for period in sorted(nested, key=lambda period: period.rank)]
    for (starts, ends), (longer_starts, longer_ends) in pairwise(spans):
        assert longer_starts <= starts
        assert longer_ends is None or (ends is not None and ends <= longer_ends)
