"""What a process shares with the other workers of its server: the metrics of all, and the port that serves them."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client.registry import Collector

from tollkeeper.errors import ConfigurationError
from tollkeeper.rate_limits.throttle import AI_SETTING, HANDSHAKES_SETTING, LOGIN_SETTING, READS_SETTING
from tollkeeper.settings import Settings
from tollkeeper.telemetry.metrics_server import MetricsServer
from tollkeeper.workers.listeners import bind
from tollkeeper.workers.metrics import MetricsFolder, WorkersMetrics


@dataclass(frozen=True, slots=True)
class OneOfSeveral:
    """Which of the workers of a server a process is, from 1, and what they share. `replaced` counts the workers that
    have ended so far. `metrics_listener` is the socket of the metrics' own port, if they have one.
    """

    number: int
    count: int
    replaced: int
    folder: MetricsFolder
    metrics_listener: socket.socket | None


@contextmanager
def metrics_of_all(own: Collector, one: OneOfSeveral | None) -> Iterator[Collector]:
    """The metrics of all workers, or of the only process. After the block, nothing may count any more."""
    if one is None:
        yield own
        return
    workers = WorkersMetrics(own, one.folder, one.number, one.count)
    workers.start()
    try:
        yield workers
    finally:
        workers.stop()


def bind_metrics(settings: Settings) -> socket.socket | None:
    """The socket of the metrics' own port, if they have one. Raises ConfigurationError if it cannot be used."""
    if settings.metrics_port is None:
        return None
    try:
        listener = bind(settings.host, settings.metrics_port)
    except ConfigurationError as error:
        raise ConfigurationError(f"TOLLKEEPER_METRICS_PORT cannot be used. {error.detail}") from None
    listener.listen()
    return listener


@contextmanager
def metrics_port(settings: Settings, metrics: Collector, one: OneOfSeveral | None) -> Iterator[None]:
    """Serve the metrics on their own port, if there is one. Raises ConfigurationError if it cannot be used."""
    listener = bind_metrics(settings) if one is None else one.metrics_listener
    if listener is None:
        yield
        return
    server = MetricsServer(listener, metrics)
    thread = threading.Thread(target=server.serve_forever, name="metrics-port", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def require_workers(settings: Settings, *, reload: bool) -> None:
    """Raise ConfigurationError where several workers cannot serve with these settings."""
    if reload:
        raise ConfigurationError("--reload serves with one process: leave it out, or set --workers 1.")
    if not hasattr(signal, "sigtimedwait") or not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError("Several workers need Linux. Set --workers 1.")
    if settings.limits_store is None and (
        limited := [name for name, at in rate_limits(settings).items() if at != "off"]
    ):
        raise ConfigurationError(
            "Each worker would count requests for itself. Set TOLLKEEPER_LIMITS_STORE=redis://HOST:6379/0, or"
            f" {', '.join(limited)} to off, or --workers 1."
        )


def rate_limits(settings: Settings) -> dict[str, str]:
    """The rate limits, by the names of their variables."""
    return {
        LOGIN_SETTING: settings.rate_limit_login,
        AI_SETTING: settings.rate_limit_ai,
        READS_SETTING: settings.rate_limit_reads,
        HANDSHAKES_SETTING: settings.rate_limit_handshakes,
    }
