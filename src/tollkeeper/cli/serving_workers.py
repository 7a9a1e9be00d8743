"""What `tollkeeper serve --workers N` adds to a server of one process: its supervisor, and what the workers share."""

import gc
import shutil
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
from tollkeeper.providers import tokenizer
from tollkeeper.providers.catalog import Catalog
from tollkeeper.settings import Settings
from tollkeeper.telemetry.logging import configure_logging, log_uncaught_exceptions
from tollkeeper.workers.listeners import bind
from tollkeeper.workers.metrics import MetricsFolder
from tollkeeper.workers.supervisor import Supervisor, Worker


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
