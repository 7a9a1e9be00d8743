"""A measured figure: the median of its rounds, and their range."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Self


@dataclass(frozen=True, slots=True)
class Figure:
    """The median, the lowest and the highest of the rounds' values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Returns the figure of the rounds' values, of which there is at least one."""
        rounds = list(values)
        return cls(median(rounds), min(rounds), max(rounds))

    def format(self, spec: str) -> str:
        """Returns the median, with the range in brackets: `2.9 (2.3 to 3.2)`. The format `spec` is for each number."""
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"
