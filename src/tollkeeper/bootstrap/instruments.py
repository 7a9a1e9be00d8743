"""What shows operators what a process does: its logs, its metrics, and the events of its calls."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tollkeeper.bootstrap.events import EventSink, event_listeners, make_event_sinks
from tollkeeper.bootstrap.metrics import ServerMetrics
from tollkeeper.bootstrap.workers import OneOfSeveral
from tollkeeper.gateway.call_record import CallEvents
from tollkeeper.gateway.event_tail import EventTail
from tollkeeper.server.limits import Connections, EdgeLimits
from tollkeeper.settings import Settings
from tollkeeper.telemetry.log_writer import LogWriter
from tollkeeper.telemetry.logging import AccessLog, configure_logging


@dataclass(frozen=True, slots=True)
class Instruments:
    """What shows operators the calls of a process, how to set the level of its log, and its open connections."""

    call_events: CallEvents
    event_tail: EventTail
    access_log: AccessLog
    metrics: ServerMetrics
    sinks: Sequence[EventSink]
    set_log_level: Callable[[str], None]
    log_writer: LogWriter
    connections: Connections


def make_instruments(settings: Settings, connections: Connections | None, one: OneOfSeveral | None) -> Instruments:
    """Configures the log of the process. `one` says which of several workers it is."""
    worker = one.number if one is not None else None
    as_text = logs_as_text(settings)
    writer = LogWriter()
    configure_logging(settings.log_level, as_text=as_text, worker=worker, write=writer.write)
    access_log = AccessLog(settings.log_level, as_text=as_text, worker=worker, write=writer.write)
    metrics = ServerMetrics()
    metrics.watch_log(writer)
    metrics.watch_workers(one.replaced if one is not None else 0)
    sinks = make_event_sinks(settings)
    metrics.watch_sinks(sinks)
    listeners = event_listeners(settings, access_log, sinks, as_text=as_text)

    def set_log_level(level: str) -> None:
        configure_logging(level, as_text=as_text, worker=worker, write=writer.write)
        access_log.set_level(level)

    open_connections = connections if connections is not None else Connections(EdgeLimits())
    tail = EventTail(lambda: open_connections.is_draining)
    return Instruments(
        call_events=CallEvents(
            metrics.calls,
            tail.put,
            *listeners,
            logs_texts=settings.log_provider_errors,
            trace_ratio=settings.trace_ratio if settings.trace_url is not None else 0.0,
        ),
        event_tail=tail,
        access_log=access_log,
        metrics=metrics,
        sinks=sinks,
        set_log_level=set_log_level,
        log_writer=writer,
        connections=open_connections,
    )


@contextmanager
def log_thread(writer: LogWriter) -> Iterator[None]:
    """A thread writes the log for the length of the block, so that its reader holds up no call."""
    writer.start()
    try:
        yield
    finally:
        writer.stop()


def logs_as_text(settings: Settings) -> bool:
    """Whether log lines are readable text, not JSON."""
    return settings.log_format == "text" or (settings.log_format == "auto" and sys.stdout.isatty())
