"""The metrics of one process as bytes, and the sum of those of several."""

from collections.abc import Callable, Iterable, Mapping

import msgspec
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Combine = Callable[[float, float], float]
_SUM: Combine = lambda one, other: one + other  # noqa: E731 - as short as `max` and `min`
GAUGES: Mapping[str, Combine] = {
    "process_max_fds": min,
    "process_open_fds": _SUM,
    "process_resident_memory_bytes": _SUM,
    "process_start_time_seconds": min,
    "process_virtual_memory_bytes": _SUM,
    "python_info": max,
    "tollkeeper_breaker_open": max,
    "tollkeeper_build_info": max,
    "tollkeeper_calls_in_flight": _SUM,
    "tollkeeper_connections": _SUM,
    "tollkeeper_database_clock_skew_seconds": max,
    "tollkeeper_events_queued": _SUM,
    "tollkeeper_events_sink_failing": max,
    "tollkeeper_batches": max,
    "tollkeeper_jobs": max,
    "tollkeeper_jobs_oldest_pending_seconds": max,
    "tollkeeper_jobs_running": _SUM,
    "tollkeeper_ledger_available": min,
    "tollkeeper_ledger_queue": _SUM,
    "tollkeeper_limits_store_away": max,
    "tollkeeper_oldest_hold_seconds": max,
    "tollkeeper_task_last_success_timestamp_seconds": min,
    "tollkeeper_cache_bytes": _SUM,
    "tollkeeper_cache_entries": _SUM,
    "tollkeeper_cache_waiting": _SUM,
    "tollkeeper_webhooks": max,
    "tollkeeper_webhooks_overdue_seconds": max,
    "tollkeeper_webhooks_pending": max,
    "tollkeeper_webhooks_running": _SUM,
    "tollkeeper_websockets": _SUM,
    "tollkeeper_workers": _SUM,
}
"""What the gauge of a server with several workers is, from those of its workers. Counters and histograms are summed."""
LARGEST_OF_ALL = frozenset({"tollkeeper_workers_replaced"})
"""Counters that each worker has been given by the supervisor."""
_CREATED = "_created"


class Family(msgspec.Struct, array_like=True):
    """A metric with its samples: names, labels and values."""

    name: str
    documentation: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]

    @property
    def only_grows(self) -> bool:
        """Whether the metric is a count or a sum since the start of its process."""
        return self.kind in ("counter", "histogram", "summary")


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Family]).decode


def take(collector: Collector) -> bytes:
    """The present metrics of this process."""
    return _encode(
        [
            Family(
                metric.name,
                metric.documentation,
                metric.type,
                [(sample.name, sample.labels, float(sample.value)) for sample in metric.samples],
            )
            for metric in collector.collect()
        ]
    )


def what_stays(snapshot: bytes) -> bytes:
    """What of a snapshot still counts after the end of its process."""
    return _encode([family for family in _decode(snapshot) if family.only_grows])


def add(snapshots: Iterable[bytes]) -> bytes:
    """One snapshot for several."""
    return _encode(list(_add(snapshots).values()))


def merge(snapshots: Iterable[bytes]) -> list[Metric]:
    """The metrics of all processes together."""
    metrics = []
    for family in _add(snapshots).values():
        metric = Metric(family.name, family.documentation, family.kind)
        for name, labels, value in family.samples:
            metric.add_sample(name, labels, value)
        metrics.append(metric)
    return metrics


def _add(snapshots: Iterable[bytes]) -> dict[str, Family]:
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for snapshot in snapshots:
        for family in _decode(snapshot):
            families.setdefault(family.name, family)
            known = values.setdefault(family.name, {})
            combine = _combination_of(family)
            for name, labels, value in family.samples:
                key = name, tuple(labels.items())
                if key not in known:
                    known[key] = value
                elif name.endswith(_CREATED):
                    known[key] = min(known[key], value)
                else:
                    known[key] = combine(known[key], value)
    for family in families.values():
        family.samples = [(name, dict(labels), value) for (name, labels), value in values[family.name].items()]
    return families


def _combination_of(family: Family) -> Combine:
    if family.name in LARGEST_OF_ALL:
        return max
    return _SUM if family.only_grows else GAUGES.get(family.name, max)
