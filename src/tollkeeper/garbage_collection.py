"""How often Python looks for garbage: objects that refer to each other, and that nothing else refers to."""

import gc

THRESHOLD = 10_000
"""How many new objects start a collection. Python's default of 700 suits small programs."""


def collect_rarely() -> None:
    """Collect less often. With the default, collections take an eighth of the time of an import of all modules."""
    gc.set_threshold(THRESHOLD, 20, 50)
