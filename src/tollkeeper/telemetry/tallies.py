"""Counters and histograms for what happens in every call. The event loop counts, and any thread reads.

Those of prometheus_client take locks and several function calls for each value, which was 2 % of a call. Here, to count
is one addition, and prometheus_client gets the numbers when they are scraped.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """A number that grows: add to its `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Distribution:
    """How many values are at most each of the `bounds`, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """How many values are above the bound before, and not above this one; those above all bounds are the last."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Counters(Collector):
    """A counter metric: a Count for each combination of values of its `labels`."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._meaning, self._labels = name, meaning, labels
        self._counts: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def of(self, *values: str) -> Count:
        """The count for these values of the labels. To find it takes longer than to count: keep it."""
        return self._counts.setdefault(values, Count())

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client, in its thread."""
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count.value)
        yield family


class Histograms(Collector):
    """A histogram metric: a Distribution for each combination of values of its `labels`."""

    def __init__(
        self, name: str, meaning: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._meaning, self._labels, self._bounds = name, meaning, labels, bounds
        self._distributions: dict[tuple[str, ...], Distribution] = {}
        registry.register(self)

    def of(self, *values: str) -> Distribution:
        """The distribution for these values of the labels. To find it takes longer than to count: keep it."""
        return self._distributions.setdefault(values, Distribution(self._bounds))

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client, in its thread."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, distribution in list(self._distributions.items()):
            total = distribution.sum
            family.add_metric(values, list(zip(names, accumulate(distribution.counts), strict=True)), total)
        yield family
