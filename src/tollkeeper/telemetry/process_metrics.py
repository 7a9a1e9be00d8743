"""Metrics of this process: its ledger, its event loop, and what the operating system says of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
COMMIT_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


def make_registry() -> CollectorRegistry:
    """A registry with the metrics of the operating system and of Python."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class BatchMetrics:
    """A listener to the batches of the ledger."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._operations = Histogram(
            "tollkeeper_ledger_batch_operations",
            "The operations that one transaction of the ledger has committed.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._seconds = Histogram(
            "tollkeeper_ledger_commit_duration_seconds",
            "The time of a transaction of the ledger, its commit included.",
            buckets=COMMIT_BUCKETS_S,
            registry=registry,
        )

    def __call__(self, operations: int, seconds: float) -> None:
        """Count a transaction."""
        self._operations.observe(operations)
        self._seconds.observe(seconds)


class Reading(NamedTuple):
    """A metric that is read when it is scraped, in any thread.

    `read` returns its value; with `labels`, a value for each combination of theirs.
    """

    name: str
    meaning: str
    read: Callable[[], float | Mapping[tuple[str, ...], float]]
    labels: tuple[str, ...] = ()


class StateCollector(Collector):
    """Reads `gauges` and `counters` at every scrape."""

    def __init__(self, gauges: Sequence[Reading], counters: Sequence[Reading]) -> None:
        self._gauges = gauges
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        """Read all."""
        for reading in self._gauges:
            yield _filled(GaugeMetricFamily(reading.name, reading.meaning, labels=reading.labels), reading)
        for reading in self._counters:
            yield _filled(CounterMetricFamily(reading.name, reading.meaning, labels=reading.labels), reading)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, reading: Reading) -> Metric:
    value = reading.read()
    for labels, number in value.items() if isinstance(value, Mapping) else (((), value),):
        family.add_metric(labels, number)
    return family
