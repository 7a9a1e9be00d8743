"""Ids of charges and of administrative operations.

The time in an id is the wall clock's, not the injected clock's: an id sorts by the moment of its creation, and must
stay unique when a test stops or moves the clock.
"""

import random
import time


def new_id(prefix: str, after: str | None = None) -> str:
    """A new id that sorts by its time: 48 bits of milliseconds and 80 random bits, in hex. It is no secret.

    It sorts after the id `after`, even if the clock was set back.
    """
    number = time.time_ns() // 1_000_000 << 80 | random.getrandbits(80)
    if after is not None:
        number = max(number, int(after.rpartition("_")[2], 16) + 1)
    return f"{prefix}_{number:032x}"
