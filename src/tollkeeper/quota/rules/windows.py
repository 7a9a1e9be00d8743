"""Windows are computed from the clock: the UTC calendar's minute, hour, day and month, and the one that never ends."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum


class Period(StrEnum):
    """How long a window lasts; from the shortest to the longest."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"

    @property
    def rank(self) -> int:
        """0 for the shortest."""
        return _RANK[self]


_RANK = {period: rank for rank, period in enumerate(Period)}
_FIXED_MS = {Period.MINUTE: 60_000, Period.HOUR: 3_600_000, Period.DAY: 86_400_000}


def span(period: Period, now_ms: int) -> tuple[int, int | None]:
    """The window that `now_ms` falls in, as (first millisecond, first millisecond after; None for `total`)."""
    if (length := _FIXED_MS.get(period)) is not None:
        starts = now_ms - now_ms % length
        return starts, starts + length
    if period is Period.TOTAL:
        return 0, None
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = (first + timedelta(days=32)).replace(day=1)
    return int(first.timestamp()) * 1000, int(after.timestamp()) * 1000
