"""Metrics of HTTP requests."""

from prometheus_client import CollectorRegistry

from tollkeeper.telemetry.http_metrics import HttpMetrics


def test_requests_are_counted_by_method_and_status_and_an_invented_method_is_other() -> None:
    registry = CollectorRegistry()
    observe = HttpMetrics(registry)
    observe("POST", 200, 0.3)
    observe("POST", 200, 0.5)
    observe("INVENTED", 405, 0.1)
    observe("GET", 0, 0.1)

    def count(method: str, status: str) -> float | None:
        labels = {"http_request_method": method, "http_response_status_code": status}
        return registry.get_sample_value("http_server_request_duration_seconds_count", labels)

    assert (count("POST", "200"), count("_OTHER", "405"), count("GET", "")) == (2, 1, 1)
