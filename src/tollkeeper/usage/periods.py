"""The time that a report is about: from one moment to another, by the calendar of a tenant."""

from datetime import date, datetime, time
from typing import NamedTuple

from tollkeeper.errors import InvalidRequest
from tollkeeper.moments import epoch_ms
from tollkeeper.quota.rules.windows import UTC_CALENDAR, Calendar, Period, span
from tollkeeper.quota.time_sorted_ids import USAGE_BUCKET_MS
from tollkeeper.quota.time_zones import load_time_zone
from tollkeeper.usage.buckets import DAY_MS

MAX_DAYS = 400
"""The longest time of a report."""
MAX_DAYS_BY_HOUR = 100


class ReportPeriod(NamedTuple):
    """From `from_ms` on and before `to_ms`, in milliseconds since the epoch. Hours and days are those of the zone."""

    from_ms: int
    to_ms: int
    time_zone: str

    def hour_of(self, at_ms: int) -> str:
        """The hour of a time: its begin, as ISO 8601 with the zone's offset."""
        return self._local(at_ms).replace(minute=0).isoformat()

    def day_of(self, at_ms: int) -> str:
        """The date of a time."""
        return self._local(at_ms).date().isoformat()

    def _local(self, at_ms: int) -> datetime:
        return datetime.fromtimestamp(at_ms / 1000, load_time_zone(self.time_zone))


def report_period(
    from_: datetime | date | None,
    to: datetime | date | None,
    now_ms: int,
    calendar: Calendar = UTC_CALENDAR,
    *,
    by_hour: bool = False,
) -> ReportPeriod:
    """The time of a report. A date is its begin in the calendar's zone. The defaults are the begin of the calendar's
    present month, and its end.

    Raises InvalidRequest.
    """
    month_start, month_end = span(Period.MONTH, now_ms, calendar)
    assert month_end is not None
    from_ms = _milliseconds(from_, calendar) if from_ is not None else month_start
    to_ms = _milliseconds(to, calendar) if to is not None else month_end
    if from_ms % USAGE_BUCKET_MS or to_ms % USAGE_BUCKET_MS:
        raise InvalidRequest("from and to are dates, or times at full quarters of an hour.")
    most = MAX_DAYS_BY_HOUR if by_hour else MAX_DAYS
    if not 0 < to_ms - from_ms <= most * DAY_MS:
        per_hour = " by hour" if by_hour else ""
        raise InvalidRequest(f"from is before to, and a report{per_hour} is about at most {most} days.")
    return ReportPeriod(from_ms, to_ms, calendar.time_zone)


def _milliseconds(moment: datetime | date, calendar: Calendar) -> int:
    if isinstance(moment, datetime):
        return epoch_ms(moment)
    begin = datetime.combine(moment, time.min, load_time_zone(calendar.time_zone))
    return epoch_ms(begin)
