"""Counts failed logins per address and minute, one log line each: the audit log has only what succeeded."""

import asyncio
from collections import Counter

import structlog

INTERVAL_S = 60.0
MAX_ADDRESSES = 1_000
OTHERS = "others"
"""Stands for all addresses of a minute beyond MAX_ADDRESSES."""

log = structlog.get_logger("tollkeeper.auth")


class FailedLogins:
    """The failed logins since the last lines were written; `total` are those since the start of the server."""

    def __init__(self) -> None:
        self.total = 0
        self._counts: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def count(self, address: str) -> None:
        """Count one, and write the lines a minute after the first."""
        self.total += 1
        if address not in self._counts and len(self._counts) >= MAX_ADDRESSES:
            address = OTHERS
        self._counts[address] += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self.write)

    def write(self) -> None:
        """Write a line for each address, and begin anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counts, self._counts = self._counts, Counter()
        for address, count in counts.items():
            log.warning("auth.failed_logins", address=address, count=count)
