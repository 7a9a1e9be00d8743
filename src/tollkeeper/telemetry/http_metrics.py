"""Metrics of HTTP requests. The name, labels and buckets are OpenTelemetry's, of its conventions for HTTP metrics."""

from collections.abc import Callable
from functools import lru_cache

from prometheus_client import CollectorRegistry

from tollkeeper.telemetry.tallies import Histograms

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
OTHER_METHOD = "_OTHER"
MAX_CACHED = 1_000


class HttpMetrics:
    """Counts each request that the application has answered, by its method and the status of the response."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._durations = Histograms(
            "http_server_request_duration_seconds",
            "The time of an HTTP request until the end of its response, a stream's included.",
            ("http_request_method", "http_response_status_code"),
            BUCKETS_S,
            registry,
        )
        self._observer = lru_cache(MAX_CACHED)(self._find_observer)

    def __call__(self, method: str, status: int, seconds: float) -> None:
        """Count one request. `status` is 0 if the client disconnected before a response had begun."""
        self._observer(method, status)(seconds)

    def _find_observer(self, method: str, status: int) -> Callable[[float], None]:
        labels = (method if method in METHODS else OTHER_METHOD, str(status) if status else "")
        return self._durations.of(*labels).observe
