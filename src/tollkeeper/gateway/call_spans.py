"""The spans of a call, from its event, in OpenTelemetry's protocol (OTLP 1). Names are those of its conventions for
generative AI, where these have one; others begin with `tollkeeper.`.

A call is a span of kind server. Below it are the reserve, each request to a provider, and the settle. They are made
when the call ends, with the ids that providers have received in `traceparent`. They contain nothing of a prompt or an
answer.

This module is imported only where traces are sent: its library is an optional one.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from tollkeeper import __version__
from tollkeeper.gateway.ai_events import request_type_of
from tollkeeper.gateway.call_events import AttemptEvent, CallEvent, Stage
from tollkeeper.telemetry.redaction import redact
from tollkeeper.telemetry.trace_context import new_span_id

SERVICE = "tollkeeper"
FIRST_OUTPUT = "first output"
SAMPLED = 1

Value = str | int | float | bool | None

_redacted = lru_cache(1_000)(redact)


def make_encoder(instance: str | None = None) -> Callable[[CallEvent], bytes]:
    """A function that encodes the spans of a call as an ExportTraceServiceRequest.

    Such messages can be joined into one. `instance` identifies this process; by default by its host and its id.
    """
    attributes: dict[str, Value] = {
        "service.name": SERVICE,
        "service.version": __version__,
        "service.instance.id": instance or f"{socket.gethostname()}:{os.getpid()}",
    }
    resource = Resource(attributes=_encoded(attributes))
    scope = InstrumentationScope(name=SERVICE, version=__version__)

    def encode(event: CallEvent) -> bytes:
        scoped = ScopeSpans(scope=scope, spans=list(_spans(event)))
        request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[scoped])])
        encoded: bytes = request.SerializeToString()
        return encoded

    return encode


def _spans(event: CallEvent) -> Iterator[Span]:
    operation = request_type_of(event.surface)
    yield _call_span(event, operation)
    if event.reserve is not None:
        yield _stage_span(event, "reserve", event.reserve, {"tollkeeper.queue_seconds": event.queue_seconds})
    for attempt in event.attempts:
        yield _attempt_span(event, attempt, operation)
    if event.settle is not None:
        yield _stage_span(event, "settle", event.settle, {})


def _call_span(event: CallEvent, operation: str) -> Span:
    """The span of the whole call. A refusal by a quota or a limit is no error of the server."""
    attributes = _model_attributes(operation, event.provider, event.model) | {
        "error.type": event.error,
        "tollkeeper.surface": event.surface,
        "tollkeeper.correlation_id": event.correlation_id,
        "tollkeeper.tenant_id": event.tenant_id,
        "tollkeeper.user_id": event.user_id,
        "tollkeeper.api_key": event.api_key,
        "tollkeeper.refused_by": event.refused_by,
        "tollkeeper.streamed": event.streamed,
        "tollkeeper.replayed": event.replayed,
        "tollkeeper.disconnected": event.disconnected,
    }
    if (charge := event.charge) is not None:
        attributes |= {
            "gen_ai.usage.input_tokens": charge.usage.input_tokens,
            "gen_ai.usage.output_tokens": charge.usage.output_tokens,
            "tollkeeper.charge_id": charge.charge_id,
            "tollkeeper.basis": charge.basis.value,
            "tollkeeper.cost_tokens": charge.cost_tokens,
            "tollkeeper.cost_micro_usd": charge.cost_micro_usd,
        }
    span = _span(event, event.trace.span_id, event.trace.parent_id, event.surface, 0.0, event.seconds, attributes)
    span.kind = Span.SPAN_KIND_SERVER
    if event.error is not None and event.refused_by is None:
        span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=event.error))
    if event.first_output_seconds is not None:
        at = _nanoseconds(event.started_at + event.first_output_seconds)
        span.events.append(Span.Event(time_unix_nano=at, name=FIRST_OUTPUT))
    return span


def _attempt_span(event: CallEvent, attempt: AttemptEvent, operation: str) -> Span:
    attributes = _model_attributes(operation, attempt.provider, attempt.model) | {
        "http.response.status_code": attempt.status,
        "error.type": attempt.error,
        "tollkeeper.charge_id": attempt.charge_id or None,
    }
    name = f"{operation} {_redacted(attempt.model)}"
    parent = event.trace.span_id
    span = _span(event, attempt.span_id, parent, name, attempt.started_s, attempt.seconds, attributes)
    span.kind = Span.SPAN_KIND_CLIENT
    if attempt.error is not None:
        span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=attempt.error))
    return span


def _stage_span(event: CallEvent, name: str, stage: Stage, attributes: Mapping[str, Value]) -> Span:
    span = _span(event, new_span_id(), event.trace.span_id, name, stage.started_s, stage.seconds, attributes)
    span.kind = Span.SPAN_KIND_INTERNAL
    return span


def _model_attributes(operation: str, provider: str, model: str) -> dict[str, Value]:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider or None,
        "gen_ai.request.model": _redacted(model) or None,
    }


def _span(
    event: CallEvent,
    span_id: str,
    parent_id: str | None,
    name: str,
    started_s: float,
    seconds: float,
    attributes: Mapping[str, Value],
) -> Span:
    began = event.started_at + started_s
    return Span(
        trace_id=bytes.fromhex(event.trace.trace_id),
        span_id=bytes.fromhex(span_id),
        parent_span_id=bytes.fromhex(parent_id) if parent_id is not None else b"",
        name=name,
        start_time_unix_nano=_nanoseconds(began),
        end_time_unix_nano=_nanoseconds(began + seconds),
        attributes=_encoded(attributes),
        flags=SAMPLED,
    )


def _nanoseconds(seconds: float) -> int:
    """Since the epoch. A float has a resolution of some 200 ns there."""
    return int(seconds * 1e9)


def _encoded(attributes: Mapping[str, Value]) -> list[KeyValue]:
    """The attributes that have a value."""
    return [KeyValue(key=key, value=_any_value(value)) for key, value in attributes.items() if value is not None]


def _any_value(value: str | int | float | bool) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
