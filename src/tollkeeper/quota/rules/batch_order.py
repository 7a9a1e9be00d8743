"""The order in which a batch decides its operations."""

from enum import IntEnum


class BatchOrder(IntEnum):
    """The order within a batch: closing a charge frees quota for a reserve, and a renewal prevents an expiry."""

    CLOSE = 0
    ADMINISTER = 1
    RESERVE = 2
    EXPIRE = 3
