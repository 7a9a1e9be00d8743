"""Computes windows from the clock: minutes and hours of UTC, days, weeks and months of a tenant's calendar, and one
without an end.
"""

from calendar import monthrange
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from tollkeeper.quota.time_zones import UTC_NAME, load_time_zone

MAX_GRANTED = 10**15
"""The largest limit of a window. Sums of amounts up to it fit 64 bits."""


class Period(StrEnum):
    """The length of a window, in ascending order."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"

    @property
    def rank(self) -> int:
        """The position in ascending order of length; 0 is the shortest."""
        return _RANK[self]

    @property
    def held_at_dispatch(self) -> bool:
        """Whether a job holds on such a window only when it starts: the window of its reserve is over by then."""
        return self in (Period.MINUTE, Period.HOUR)


class Calendar(NamedTuple):
    """When the days, weeks and months of a tenant begin: at midnight in the time zone, a week on Monday (ISO 8601), and
    a month on the reset day, or on its last day if it is shorter.
    """

    time_zone: str = UTC_NAME
    reset_day: int = 1


UTC_CALENDAR = Calendar()
Span = tuple[int, int | None]
"""The first millisecond of a window, and the first one after it (None for `total`)."""

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
_RANK = {period: rank for rank, period in enumerate(Period)}
_FIXED_MS = {Period.MINUTE: 60_000, Period.HOUR: HOUR_MS}
_SHORTEST_MS = {
    Period.MINUTE: 60_000,
    Period.HOUR: HOUR_MS,
    Period.DAY: DAY_MS - HOUR_MS,
    Period.WEEK: 7 * DAY_MS - HOUR_MS,
    Period.MONTH: 28 * DAY_MS - HOUR_MS,
}
"""The shortest window of a calendar: clocks go forward by an hour in it."""
_YEAR_MS = 31_556_952_000
"""The mean year of the Gregorian calendar: 365.2425 days."""
MEAN_MS = {
    Period.MINUTE: 60_000,
    Period.HOUR: HOUR_MS,
    Period.DAY: DAY_MS,
    Period.WEEK: 7 * DAY_MS,
    Period.MONTH: _YEAR_MS // 12,
}
"""The mean length of a window."""
_LONGEST_MS = {Period.DAY: 26 * HOUR_MS, Period.WEEK: 8 * DAY_MS, Period.MONTH: 32 * DAY_MS}


def span(period: Period, now_ms: int, calendar: Calendar = UTC_CALENDAR) -> Span:
    """The window of the calendar that contains `now_ms`."""
    if (length := _FIXED_MS.get(period)) is not None:
        starts = now_ms - now_ms % length
        return starts, starts + length
    if period is Period.TOTAL:
        return 0, None
    today = datetime.fromtimestamp(now_ms / 1000, load_time_zone(calendar.time_zone)).date()
    if period is Period.DAY:
        first, after = today, today + timedelta(days=1)
    elif period is Period.WEEK:
        first = today - timedelta(days=today.weekday())
        after = first + timedelta(days=7)
    else:
        first = _month_start(today.year, today.month, calendar.reset_day)
        if today < first:
            before = today.replace(day=1) - timedelta(days=1)
            first, after = _month_start(before.year, before.month, calendar.reset_day), first
        else:
            later = today.replace(day=1) + timedelta(days=31)
            after = _month_start(later.year, later.month, calendar.reset_day)
    return _midnight_ms(first, calendar), _midnight_ms(after, calendar)


def month_span(year: int, month: int, calendar: Calendar) -> tuple[int, int]:
    """The month of the calendar that begins in this month of this year."""
    after = date(year, month, 1) + timedelta(days=31)
    starts = _month_start(year, month, calendar.reset_day)
    return _midnight_ms(starts, calendar), _midnight_ms(
        _month_start(after.year, after.month, calendar.reset_day), calendar
    )


def new_span(
    period: Period, now_ms: int, calendar: Calendar, *, previous_end_ms: int | None, next_start_ms: int | None
) -> Span:
    """The window to open at `now_ms`, where no stored window of its quota covers that time.

    `previous_end_ms` and `next_start_ms` are of the stored windows before and after it. If the previous one ends amid a
    window of the calendar, because the calendar was changed, the new one begins there, and ends with that window or, if
    it would be shorter than any of the calendar, with the next: so a change adds no grant.
    """
    starts, ends = span(period, now_ms, calendar)
    if ends is None:
        return starts, None
    if previous_end_ms is not None and previous_end_ms > starts:
        starts = previous_end_ms
        while ends is not None and ends - starts < _SHORTEST_MS[period]:
            ends = span(period, ends, calendar)[1]
    if next_start_ms is not None and ends is not None:
        ends = min(ends, next_start_ms)
    return starts, ends


def earliest_start_ms(period: Period, now_ms: int) -> int:
    """No window that covers `now_ms`, or ends in a window of a calendar that does, begins before."""
    if period is Period.TOTAL:
        return 0
    length = _FIXED_MS.get(period)
    return now_ms - (length if length is not None else 3 * _LONGEST_MS[period])


def _month_start(year: int, month: int, reset_day: int) -> date:
    return date(year, month, min(reset_day, monthrange(year, month)[1]))


def _midnight_ms(day: date, calendar: Calendar) -> int:
    """When a day begins. If clocks skip its midnight, that is when they do; if they repeat it, the first time."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=load_time_zone(calendar.time_zone))
    return int(midnight.timestamp()) * 1000
