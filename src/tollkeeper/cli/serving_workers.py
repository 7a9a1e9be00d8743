"""What `tollkeeper serve --workers N` adds to a server of one process: its supervisor, and what the workers share."""

import gc
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import typer

from tollkeeper.bootstrap.instruments import logs_as_text
from tollkeeper.bootstrap.workers import OneOfSeveral, bind_metrics
from tollkeeper.cli.runner import EXIT_ERROR
from tollkeeper.errors import ConfigurationError
from tollkeeper.providers import tokenizer
from tollkeeper.providers.catalog import Catalog
from tollkeeper.rate_limits.throttle import AI_SETTING, HANDSHAKES_SETTING, LOGIN_SETTING, READS_SETTING
from tollkeeper.settings import Settings
from tollkeeper.telemetry.logging import configure_logging, log_uncaught_exceptions
from tollkeeper.workers.listeners import bind
from tollkeeper.workers.metrics import MetricsFolder
from tollkeeper.workers.supervisor import Supervisor, Worker


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


def become_worker(
    settings: Settings, listeners: Sequence[socket.socket], catalog: Catalog
) -> tuple[Worker, OneOfSeveral]:
    """Start the workers, one for each socket, and supervise them. Returns in each worker.

    In the supervisor, raises typer.Exit with its exit code once all workers have ended; and ConfigurationError.
    """
    configure_logging(settings.log_level, as_text=logs_as_text(settings))
    log_uncaught_exceptions()
    metrics_listener = bind_metrics(settings)
    path = Path(tempfile.mkdtemp(prefix="tollkeeper-"))
    try:
        folder = MetricsFolder(path)
        supervisor = Supervisor(
            listeners,
            bind=lambda: bind(settings.host, settings.port, shared=True),
            on_end=folder.end,
            final_codes=frozenset({EXIT_ERROR}),
        )
        _load_what_is_shared(catalog)
        result = supervisor.run()
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    if isinstance(result, int):
        shutil.rmtree(path, ignore_errors=True)
        raise typer.Exit(result)
    return result, OneOfSeveral(result.number, len(listeners), result.replaced, folder, metrics_listener)


def _load_what_is_shared(catalog: Catalog) -> None:
    """Load what all workers need, so that its memory is shared. The process must have one thread when it is forked."""
    if catalog.provider_names != ("echo",):
        tokenizer.load()
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, threading.enumerate()
    sys.stdout.flush()
    sys.stderr.flush()
