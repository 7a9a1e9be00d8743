"""Ids of charges, of administrative operations and of the openings of windows.

The time in an id is the wall clock's, not the injected clock's: an id sorts by the moment of its creation, and must
stay unique when a test stops or moves the clock.
"""

import random
import re
import time
from datetime import date
from functools import lru_cache

CHARGE_PREFIX = "chg"
"""The prefix of the ids of charges."""
CHARGE_ID = re.compile(rf"{CHARGE_PREFIX}_[0-9a-f]{{32}}")
USAGE_BUCKET_MS = 15 * 60_000
"""How much time the sums of usage are made of. All time zones of today differ from UTC by a multiple of it: Nepal's by
5 hours and 45 minutes.
"""
_DAY_MS = 86_400_000
_EPOCH = date(1970, 1, 1).toordinal()


def new_id(prefix: str, after: str | None = None) -> str:
    """A new id that sorts by its time: 48 bits of milliseconds and 80 random bits, in hex. It is no secret.

    It sorts after the id `after`, even if the clock was set back.
    """
    number = time.time_ns() // 1_000_000 << 80 | random.getrandbits(80)
    if after is not None:
        number = max(number, int(after.rpartition("_")[2], 16) + 1)
    return f"{prefix}_{number:032x}"


def linked_id(first_id: str) -> str:
    """The id of the second charge of a pair, which follows that of the first: who knows one knows both."""
    prefix, _, number = first_id.rpartition("_")
    return f"{prefix}_{int(number, 16) + 1:032x}"


def last_id(prefix: str) -> str:
    """An id that sorts after each one that was made until now: the last of this millisecond. No row has it."""
    return f"{prefix}_{time.time_ns() // 1_000_000 << 80 | (1 << 80) - 1:032x}"


def month_of(time_sorted_id: str) -> int:
    """The partition month of an id: the month of its time in UTC, as YYYYMM.

    Raises ValueError for what is no such id, or has a time after the year 9999.
    """
    return _month_of_day(time_of(time_sorted_id) // _DAY_MS)


def time_of(time_sorted_id: str) -> int:
    """The time of an id, in milliseconds since the epoch. Raises ValueError for what is no such id."""
    return int(time_sorted_id[-32:-20], 16)


def usage_bucket_of(charge_id: str) -> int:
    """The begin of the bucket in whose sums a charge is counted: that of the time in its id, which is when its reserve
    was asked for. In milliseconds since the epoch.
    """
    moment = time_of(charge_id)
    return moment - moment % USAGE_BUCKET_MS


@lru_cache(maxsize=64)
def _month_of_day(day: int) -> int:
    """The month of a day, which is counted from 1970-01-01."""
    day_of_month = date.fromordinal(_EPOCH + day)
    return day_of_month.year * 100 + day_of_month.month
