"""Counts the lines of batches that have ended in this process."""

from collections import Counter
from collections.abc import Iterable
from itertools import product

from tollkeeper.batches.steps import LineEnd


class BatchLines:
    """How many lines of each kind of batch were collected by this process, by how they have ended.

    Each count begins at 0: a rate does not include a count that was not there before.
    """

    def __init__(self, kinds: Iterable[str]) -> None:
        self.ended: Counter[tuple[str, str]] = Counter({(kind, end.value): 0 for kind, end in product(kinds, LineEnd)})

    def note(self, kind: str, end: LineEnd, count: int) -> None:
        self.ended[kind, end.value] += count
