"""Windows of a calendar as they should be, found by walking along the clock: one begins where a local date does."""

from calendar import monthrange
from datetime import UTC, date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

PERIODS = ("minute", "hour", "day", "week", "month", "total")
"""In ascending order of length."""
HOUR_MS = 3_600_000
STEP_MS = 900_000
"""Offsets of time zones are whole quarters of an hour."""
SHORTEST_DAYS = {"day": 1, "week": 7, "month": 28}

Span = tuple[int, int | None]
Calendar = tuple[str, int]
"""Time zone and reset day."""


def natural(period: str, calendar: Calendar, ms: int) -> Span:
    """The window of a calendar that a moment is in."""
    if period == "total":
        return 0, None
    if period in ("minute", "hour"):
        length = HOUR_MS if period == "hour" else 60_000
        return ms // length * length, (ms // length + 1) * length
    return _walk(period, calendar, ms // STEP_MS * STEP_MS)


def opened(period: str, calendar: Calendar, ms: int, previous_end: int | None, next_start: int | None) -> Span:
    """The window that opens at a moment, between two others of its quota."""
    start, end = natural(period, calendar, ms)
    if end is None:
        return start, None
    if previous_end is not None and start < previous_end:
        start = previous_end
        while end - start < SHORTEST_DAYS[period] * 24 * HOUR_MS - HOUR_MS:
            end = natural(period, calendar, end)[1] or 0
    return start, end if next_start is None else min(end, next_start)


@lru_cache(maxsize=10_000)
def _walk(period: str, calendar: Calendar, ms: int) -> tuple[int, int]:
    start = ms
    while not _begins(period, calendar, start):
        start -= STEP_MS
    end = ms + STEP_MS
    while not _begins(period, calendar, end):
        end += STEP_MS
    return start, end


def _begins(period: str, calendar: Calendar, ms: int) -> bool:
    zone, reset_day = calendar
    day = _local_date(zone, ms)
    if day == _local_date(zone, ms - STEP_MS):
        return False
    last = monthrange(day.year, day.month)[1]
    return period == "day" or (day.weekday() == 0 if period == "week" else day.day == min(reset_day, last))


def _local_date(zone: str, ms: int) -> date:
    return datetime.fromtimestamp(ms // 1000, UTC).astimezone(ZoneInfo(zone)).date()
