"""Ids of charges and of administrative operations."""

import random
import time


def new_id(prefix: str, after: str | None = None) -> str:
    """A new id that sorts by the time it was made: 48 bits of milliseconds, 80 random bits, in hex. Not a secret.

    It sorts after the id `after`, even if the clock was set back.
    """
    number = time.time_ns() // 1_000_000 << 80 | random.getrandbits(80)
    if after is not None:
        number = max(number, int(after.rpartition("_")[2], 16) + 1)
    return f"{prefix}_{number:032x}"
