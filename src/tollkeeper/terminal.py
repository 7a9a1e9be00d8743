"""The terminal that a process was started from."""

import os


class Terminal:
    """The terminal that the process was started from, if any."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._was_there = os.isatty(descriptor)

    @property
    def is_gone(self) -> bool:
        """Whether there was one, and it is closed: then SIGHUP means that, as it does for any program."""
        return self._was_there and not os.isatty(self._descriptor)
