"""Composes the sinks of the events of calls and of their traces, by the settings."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from tollkeeper.event_sinks.http_endpoint import PROTOBUF, HttpEndpoint
from tollkeeper.event_sinks.jsonl_file import JsonlFile
from tollkeeper.event_sinks.sink import MAX_WRITE_S, Sink
from tollkeeper.gateway.ai_events import call_log, encode
from tollkeeper.gateway.call_events import CallEvent, CallListener
from tollkeeper.outbound.client import OutboundClient, check_url
from tollkeeper.settings import Settings
from tollkeeper.settings.extras import missing_package
from tollkeeper.telemetry.logging import AccessLog

MEGABYTE = 1_000_000
TRACES = "traces"
"""The name of the sink that sends spans."""

EventSink = Sink[CallEvent]


def make_event_sinks(settings: Settings) -> list[EventSink]:
    """The sinks that the operator has set. Raises ConfigurationError for a file of certificates that has none."""
    sinks = []
    if settings.events_file is not None:
        make_file = partial(
            JsonlFile,
            settings.events_file.absolute(),
            max_bytes=settings.events_file_megabytes * MEGABYTE,
            max_files=settings.events_files,
        )
        sinks.append(Sink("file", encode, make_file, capacity=settings.events_queue))
    if settings.events_url is not None:
        make_endpoint = partial(
            HttpEndpoint, _client_for(settings, settings.events_url), settings.events_url, settings.events_token
        )
        sinks.append(Sink("http", encode, make_endpoint, capacity=settings.events_queue))
    if settings.trace_url is not None:
        make_collector = partial(
            HttpEndpoint, _client_for(settings, settings.trace_url), settings.trace_url, settings.trace_token, PROTOBUF
        )
        sinks.append(Sink(TRACES, _span_encoder(), make_collector, capacity=settings.events_queue))
    return sinks


def _client_for(settings: Settings, url: str) -> OutboundClient:
    check_url(url)
    return OutboundClient(settings.events_networks, ca_file=settings.ca_file, total_s=MAX_WRITE_S)


def _span_encoder() -> Callable[[CallEvent], bytes]:
    """Raises ConfigurationError where the library of the protocol is not installed."""
    try:
        from tollkeeper.gateway.call_spans import make_encoder  # only where traces are sent: it takes 6 MB
    except ModuleNotFoundError:
        raise missing_package("TOLLKEEPER_TRACE_URL", "tracing") from None
    return make_encoder()


@asynccontextmanager
async def running(sinks: Sequence[EventSink]) -> AsyncIterator[None]:
    """The sinks run for the length of the block. At its end they write what is queued, for a bounded time."""
    for sink in sinks:
        sink.start()
    try:
        yield
    finally:
        await asyncio.gather(*(sink.stop() for sink in sinks))


def event_listeners(
    settings: Settings, access_log: AccessLog, sinks: Sequence[EventSink], *, as_text: bool
) -> list[CallListener]:
    """What receives the event of each call."""
    listeners = [_sampled(sink.put) if sink.name == TRACES else sink.put for sink in sinks]
    if settings.events_log:
        log_call = call_log(access_log, as_text=as_text)
        listeners.append(lambda event: log_call(event) if access_log.enabled else None)  # a reload may change the level
    return listeners


def _sampled(put: CallListener) -> CallListener:
    """A listener to the calls whose traces are recorded."""

    def put_sampled(event: CallEvent) -> None:
        if event.trace.sampled:
            put(event)

    return put_sampled
