"""The times that people write: those for which every time zone has a date."""

import math
from datetime import datetime

from tollkeeper.errors import InvalidRequest

EARLIEST_MS, LATEST_MS = 0, 253_370_764_800_000
"""1970-01-01 and 9999-01-01, in UTC."""


def epoch_ms(moment: datetime) -> int:
    """Milliseconds since the epoch, of a time with an offset, rounded down. Raises InvalidRequest unless it is from
    EARLIEST_MS to LATEST_MS.
    """
    at_ms = math.floor(moment.timestamp() * 1000)
    if not EARLIEST_MS <= at_ms <= LATEST_MS:
        raise InvalidRequest("A time is not before the year 1970, and not after the year 9998.")
    return at_ms
