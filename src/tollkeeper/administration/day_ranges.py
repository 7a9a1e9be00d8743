"""The days that an administrator asks for."""

from datetime import UTC, date, datetime, timedelta

from tollkeeper.errors import InvalidRequest

DEFAULT_DAYS, MAX_DAYS = 30, 400


def days_between(now_ms: int, first: date | None, last: date | None) -> tuple[str, str]:
    """The first and the last day (UTC), as ISO dates; by default the last DEFAULT_DAYS. Raises InvalidRequest."""
    last = last or datetime.fromtimestamp(now_ms / 1000, UTC).date()
    first = first or last - timedelta(days=min(DEFAULT_DAYS - 1, (last - date.min).days))
    if not timedelta() <= last - first < timedelta(days=MAX_DAYS):
        raise InvalidRequest(f"from is not after to, and at most {MAX_DAYS} days before it.")
    return first.isoformat(), last.isoformat()
