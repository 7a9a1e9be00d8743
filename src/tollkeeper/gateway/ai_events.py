"""The events `ai.request` and `ai.response` of a call, as JSON. `docs/events.schema.json` describes them.

Both are made when the call ends; the first has the time of its begin. They contain nothing of a prompt or an answer.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from tollkeeper.gateway.ai_event_documents import (
    AttemptDocument,
    BookableChargeDocument,
    ClosedChargeDocument,
    DurationsDocument,
    ErrorDocument,
    EventDocument,
    GroupDocument,
    Id,
    ModerationDocument,
    Name,
    PriceDocument,
    RequestData,
    ResponseData,
    UnenforcedDocument,
    UsageDocument,
)
from tollkeeper.gateway.call_events import AttemptEvent, CallEvent, CallListener, Stage
from tollkeeper.quota.rules.operations import ClosedCharge, Terms
from tollkeeper.tags import split_tag
from tollkeeper.telemetry.logging import AccessLog
from tollkeeper.telemetry.redaction import redact

REQUEST: Literal["ai.request"] = "ai.request"
RESPONSE: Literal["ai.response"] = "ai.response"

_encode = msgspec.json.Encoder().encode
_REQUEST_TYPES = {
    "embeddings": "embeddings",
    "completions": "text_completion",
    "estimate": "estimate",
    "responses/input_tokens": "count_tokens",
    "messages/count_tokens": "count_tokens",
}
_redacted = lru_cache(1_000)(redact)
"""A caller may put a secret in the place of a model's name. There are few names, and the patterns cost 2 µs."""


def request_type_of(surface: str) -> str:
    """What a call of this surface does: the `gen_ai.operation.name` of OpenTelemetry, where it has one."""
    return _REQUEST_TYPES.get(surface, "chat")


def encode(event: CallEvent) -> bytes:
    """Both events of a call as JSON, one a line."""
    return b"%b\n%b\n" % encode_both(event)


def encode_both(event: CallEvent) -> tuple[bytes, bytes]:
    """The events `ai.request` and `ai.response` of a call, each as a JSON object."""
    call = (
        request_type_of(event.surface),
        event.surface,
        event.streamed,
        Name(event.provider or None),
        Id(_redacted(event.model) or None),
        Id(event.tenant_id),
        Id(event.user_id),
        Id(event.api_key) if event.api_key is not None else None,
        _group(event),
        dict(map(split_tag, event.tags)) if event.tags else {},
    )
    charge = event.charge
    response = ResponseData(
        *call,
        _status_of(event),
        ErrorDocument(event.error, event.refused_by) if event.error is not None else None,
        _usage(charge) if charge is not None else None,
        _charge(charge, event.terms, event.granted_output) if charge is not None else None,
        [_attempt(attempt) for attempt in event.attempts],
        DurationsDocument(
            _round(event.seconds),
            _round_any(event.queue_seconds),
            _length(event.reserve),
            _round_any(event.first_output_seconds),
            _round(event.provider_seconds) if event.attempts else None,
            _length(event.settle),
        ),
        [ModerationDocument(*found) for found in event.moderation] if event.moderation else UNSET,
        [UnenforcedDocument(*one) for one in charge.would_refuse] if charge and charge.would_refuse else UNSET,
        _redacted(event.fallback_for) if event.fallback_for is not None else UNSET,
    )
    return (
        _encode(_document(event, REQUEST, event.started_at, RequestData(*call))),
        _encode(_document(event, RESPONSE, event.started_at + event.seconds, response)),
    )


def call_log(log: AccessLog, *, as_text: bool = False) -> CallListener:
    """A listener that logs both events of each call; as text, for people, one line with the figures of the response."""

    def log_events(event: CallEvent) -> None:
        request, response = encode_both(event)
        log.write_json((REQUEST, request), (RESPONSE, response))

    def log_summary(event: CallEvent) -> None:
        log.write_line(_summary(event))

    return log_summary if as_text else log_events


def _document(
    event: CallEvent, event_type: Literal["ai.request", "ai.response"], at: float, data: RequestData
) -> EventDocument:
    trace = event.trace
    return EventDocument(
        event_type,
        f"{trace.span_id}-{event_type[3:]}",
        datetime.fromtimestamp(at, UTC),
        event.correlation_id,
        trace.trace_id,
        trace.span_id,
        trace.parent_id,
        data,
    )


def _status_of(event: CallEvent) -> str:
    """`refused`: the provider was not called. `disconnected`: the client left before the end of its stream."""
    if event.error is not None:
        return "failed" if event.attempts else "refused"
    if event.replayed:
        return "replayed"
    return "disconnected" if event.disconnected else "succeeded"


def _group(event: CallEvent) -> GroupDocument | None:
    group_id = event.charge.group_id if event.charge is not None else None
    return GroupDocument(group_id, event.group) if group_id is not None or event.group is not None else None


def _usage(charge: ClosedCharge) -> UsageDocument:
    usage = charge.usage
    return UsageDocument(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.total_tokens,
    )


def _charge(charge: ClosedCharge, terms: Terms | None, granted_output: int) -> ClosedChargeDocument:
    closed = (charge.charge_id, charge.basis.value, charge.cost_tokens, charge.cost_micro_usd, charge.overrun)
    if terms is None:
        return ClosedChargeDocument(*closed)
    price = terms.meter.price
    return BookableChargeDocument(
        *closed,
        terms.meter.weight_milli,
        PriceDocument.of(price) if price is not None else None,
        terms.input_bound,
        granted_output,
    )


def _attempt(attempt: AttemptEvent) -> AttemptDocument:
    return AttemptDocument(
        attempt.provider,
        _redacted(attempt.model),
        attempt.charge_id,
        attempt.span_id,
        attempt.error,
        attempt.status,
        _round(attempt.started_s),
        _round(attempt.seconds),
    )


def _summary(event: CallEvent) -> dict[str, Any]:
    line: dict[str, Any] = {
        "event": RESPONSE,
        "surface": event.surface,
        "status": _status_of(event),
        "provider": event.provider,
        "model": _redacted(event.model),
        "tenant_id": event.tenant_id,
        "user_id": event.user_id,
        "error": event.error,
        "attempts": len(event.attempts),
        "seconds": event.seconds,
    }
    if (charge := event.charge) is not None:
        line["charge_id"], line["basis"] = charge.charge_id, charge.basis.value
        line["input_tokens"], line["output_tokens"] = charge.usage.input_tokens, charge.usage.output_tokens
        line["cost_tokens"] = charge.cost_tokens
    return line | {"correlation_id": event.correlation_id}


def _length(stage: Stage | None) -> float | None:
    return _round(stage.seconds) if stage is not None else None


def _round_any(seconds: float | None) -> float | None:
    return _round(seconds) if seconds is not None else None


def _round(seconds: float) -> float:
    """To microseconds; in a third of the time that `round` takes."""
    return int(seconds * 1e6 + 0.5) / 1e6
