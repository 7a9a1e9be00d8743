"""The port of the metrics: a client that opens many connections takes few threads."""

import socket
import threading
import time
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Counter

from support.deadlines import TEST_DEADLINE_S
from tollkeeper.telemetry import metrics_server as module
from tollkeeper.telemetry.metrics_server import MetricsServer


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    registry = CollectorRegistry()
    Counter("calls", "Calls.", registry=registry)
    server = MetricsServer(socket.create_server(("127.0.0.1", 0)), registry)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_is_beyond_the_bound_is_closed_and_later_scrapes_are_served(port: int) -> None:
    silent = [_connect(port) for _ in range(2)]
    with _connect(port) as beyond:
        assert beyond.recv(1) == b"", "it is closed at once, not after the time for a request"
    for one in silent:
        one.close()
    deadline = time.monotonic() + TEST_DEADLINE_S
    while (text := _scrape(port)) is None and time.monotonic() < deadline:
        time.sleep(0.01)  # the threads notice the ends of their connections
    assert text is not None
    assert "calls_total 0.0" in text


def _scrape(port: int) -> str | None:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TEST_DEADLINE_S) as response:
            return str(response.read(), "utf-8")
    except OSError:
        return None


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5.0)
