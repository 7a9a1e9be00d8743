"""Computes windows from the clock: minutes, hours, days and months of the UTC calendar, and one without an end."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

MAX_GRANTED = 10**15
"""The largest limit of a window. Sums of amounts up to it fit 64 bits."""


class Period(StrEnum):
    """The length of a window, in ascending order."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"

    @property
    def rank(self) -> int:
        """The position in ascending order of length; 0 is the shortest."""
        return _RANK[self]


_RANK = {period: rank for rank, period in enumerate(Period)}
_FIXED_MS = {Period.MINUTE: 60_000, Period.HOUR: 3_600_000, Period.DAY: 86_400_000}


def span(period: Period, now_ms: int) -> tuple[int, int | None]:
    """The window that contains `now_ms`: its first millisecond, and the first one after it (None for `total`)."""
    if (length := _FIXED_MS.get(period)) is not None:
        starts = now_ms - now_ms % length
        return starts, starts + length
    if period is Period.TOTAL:
        return 0, None
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = (first + timedelta(days=32)).replace(day=1)
    return int(first.timestamp()) * 1000, int(after.timestamp()) * 1000
