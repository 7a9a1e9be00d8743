"""The metrics of a server: the listeners that count, the numbers that are read, and the port that serves them."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server

from tollkeeper.errors import ConfigurationError
from tollkeeper.gateway.call_metrics import CallMetrics
from tollkeeper.quota.ledger import Ledger
from tollkeeper.settings import Settings
from tollkeeper.telemetry.loop_watchdog import LoopWatchdog
from tollkeeper.telemetry.process_metrics import BatchMetrics, StateCollector, make_registry


class ServerMetrics:
    """The registry of a server, and the listeners `calls` and `batches`."""

    def __init__(self) -> None:
        self.registry = make_registry()
        self.calls = CallMetrics(self.registry)
        self.batches = BatchMetrics(self.registry)

    def watch(self, ledger: Ledger, watchdog: LoopWatchdog) -> None:
        """Read the state of these at every scrape."""
        gauges = {
            "tollkeeper_calls_in_flight": ("Calls of this process with an open charge.", lambda: ledger.in_flight),
            "tollkeeper_ledger_queue": ("Operations that wait to be committed.", lambda: ledger.queued),
            "tollkeeper_ledger_available": ("1 while the ledger admits calls, else 0.", lambda: ledger.available),
        }
        counters = {
            "tollkeeper_loop_stalls": ("Times that a call has blocked the event loop.", lambda: watchdog.stalls),
            "tollkeeper_loop_stalled_seconds": ("How long the event loop was blocked.", lambda: watchdog.stalled_s),
        }
        self.registry.register(StateCollector(gauges, counters))

    @contextmanager
    def served(self, settings: Settings) -> Iterator[None]:
        """Serve the metrics on their own port, if there is one. Raises ConfigurationError if it cannot be used."""
        if settings.metrics_port is None:
            yield
            return
        try:
            server, thread = start_http_server(settings.metrics_port, settings.host, self.registry)
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on TOLLKEEPER_METRICS_PORT {settings.metrics_port}: {error.strerror or error}."
            ) from None
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
