"""Our counters and histograms show what those of prometheus_client show."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric

from tollkeeper.telemetry.tallies import Counters, Histograms

BOUNDS = (0.01, 0.5, 1.0, 10.0)
LABELS = ("method", "status")

values = st.lists(
    st.tuples(
        st.tuples(st.sampled_from(["GET", "POST"]), st.sampled_from(["200", "500"])),
        st.sampled_from([0.0, *BOUNDS, 10.1]) | st.floats(0, 20),
    )
)


@given(observed=values)
def test_a_histogram_shows_the_same(observed: list[tuple[tuple[str, str], float]]) -> None:
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry()
    histograms = Histograms("seconds", "How long.", LABELS, BOUNDS, ours)
    histogram = Histogram("seconds", "How long.", LABELS, buckets=BOUNDS, registry=theirs)
    for labels, value in observed:
        histograms.of(*labels).observe(value)
        histogram.labels(*labels).observe(value)
    assert shown(ours) == shown(theirs)


@given(added=values)
def test_a_counter_shows_the_same(added: list[tuple[tuple[str, str], float]]) -> None:
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry()
    counters, counter = (
        Counters("calls_total", "How many.", LABELS, ours),
        Counter("calls_total", "How many.", LABELS, registry=theirs),
    )
    for labels, value in added:
        counters.of(*labels).value += value
        counter.labels(*labels).inc(value)
    assert shown(ours) == shown(theirs)


def test_a_histogram_without_labels_shows_zeros_before_the_first_value() -> None:
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry()
    Histograms("seconds", "How long.", (), BOUNDS, ours).of()
    Histogram("seconds", "How long.", buckets=BOUNDS, registry=theirs)
    assert shown(ours) == shown(theirs)


def shown(
    registry: CollectorRegistry,
) -> list[tuple[str, str, str, set[tuple[str, frozenset[tuple[str, str]], float]]]]:
    """Each metric with its samples, but for the times of creation, which nothing of ours reads."""
    return [(*_head(metric), _samples(metric)) for metric in registry.collect()]


def _head(metric: Metric) -> tuple[str, str, str]:
    return metric.name, metric.documentation, metric.type


def _samples(metric: Metric) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    return {
        (sample.name, frozenset(sample.labels.items()), sample.value)
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }
