"""Arithmetic of partition months, which are numbers: 202711 is November 2027 in UTC."""

import re
from datetime import UTC, datetime

_WRITTEN = re.compile(r"(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])")
LATEST_YEAR = 9998
"""Of a month that has an end."""


def month_after(month: int) -> int:
    return month + (89 if month % 100 == 12 else 1)


def month_before(month: int) -> int:
    return month - (89 if month % 100 == 1 else 1)


def end_of(month: int) -> int:
    """The end of a month, in milliseconds since the epoch."""
    year, number = divmod(month_after(month), 100)
    return int(datetime(year, number, 1, tzinfo=UTC).timestamp() * 1000)


def month_at(at_ms: int) -> int:
    """The month of a time, in milliseconds since the epoch."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.year * 100 + moment.month


def months_before(count: int, at_ms: int) -> int:
    """The month that began so many months before that of a time, in milliseconds since the epoch."""
    month = month_at(at_ms)
    for _ in range(count):
        month = month_before(month)
    return month


def written(month: int) -> str:
    """As people write it: 2027-11."""
    return f"{month // 100:04}-{month % 100:02}"


def parse_month(text: str) -> int:
    """The month that people wrote as 2027-11. Raises ValueError, also for one before 1970 or after LATEST_YEAR."""
    found = _WRITTEN.fullmatch(text)
    if found is None or int(found[1]) > LATEST_YEAR:
        raise ValueError("a month is written as 2027-11")
    return int(found[1]) * 100 + int(found[2])
