"""The clock, which is injected so that tests can set the time."""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of wall-clock time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z."""
        ...


class SystemClock:
    """The wall clock of the machine."""

    def now_ms(self) -> int:
        return int(time.time() * 1000)
