"""The events `ai.request` and `ai.response` of a call, as JSON. `docs/events.schema.json` describes them.

Both are made when the call ends; the first has the time of its begin. They contain nothing of a prompt or an answer.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from tollkeeper.gateway.call_events import AttemptEvent, CallEvent, CallListener, Stage
from tollkeeper.quota.rules.operations import ClosedCharge, Terms
from tollkeeper.tags import split_tag
from tollkeeper.telemetry.logging import AccessLog
from tollkeeper.telemetry.redaction import redact

REQUEST = "ai.request"
RESPONSE = "ai.response"

Document = dict[str, Any]
"""A JSON object. Every call makes these: orjson encodes dictionaries in less time than it takes to make structs."""

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
    trace, charge = event.trace, event.charge
    data: Document = {
        "request_type": request_type_of(event.surface),
        "surface": event.surface,
        "streamed": event.streamed,
        "provider": {"name": event.provider or None},
        "model": {"id": _redacted(event.model) or None},
        "tenant": {"id": event.tenant_id},
        "user": {"id": event.user_id},
        "api_key": {"id": event.api_key} if event.api_key is not None else None,
        "group": _group(event),
        "tags": dict(map(split_tag, event.tags)) if event.tags else {},
    }
    document: Document = {
        "event_type": REQUEST,
        "event_id": f"{trace.span_id}-request",
        "time": datetime.fromtimestamp(event.started_at, UTC),
        "correlation_id": event.correlation_id,
        "trace_id": trace.trace_id,
        "span_id": trace.span_id,
        "parent_span_id": trace.parent_id,
        "data": data,
    }
    request = _encode(document)
    document["event_type"] = RESPONSE
    document["event_id"] = f"{trace.span_id}-response"
    document["time"] = datetime.fromtimestamp(event.started_at + event.seconds, UTC)
    data["status"] = _status_of(event)
    data["error"] = {"code": event.error, "refused_by": event.refused_by} if event.error is not None else None
    data["usage"] = _usage(charge) if charge is not None else None
    data["charge"] = _charge(charge, event.terms, event.granted_output) if charge is not None else None
    data["attempts"] = [_attempt(attempt) for attempt in event.attempts]
    data["durations"] = _durations(event)
    _add_rare_fields(event, data)
    return request, _encode(document)


def call_log(log: AccessLog, *, as_text: bool = False) -> CallListener:
    """A listener that logs both events of each call; as text, for people, one line with the figures of the response."""

    def log_events(event: CallEvent) -> None:
        request, response = encode_both(event)
        log.write_json((REQUEST, request), (RESPONSE, response))

    def log_summary(event: CallEvent) -> None:
        log.write_line(_summary(event))

    return log_summary if as_text else log_events


def _encode(document: Document) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_UTC_Z)


def _status_of(event: CallEvent) -> str:
    """`refused`: the provider was not called. `disconnected`: the client left before the end of its stream."""
    if event.error is not None:
        return "failed" if event.attempts else "refused"
    if event.replayed:
        return "replayed"
    return "disconnected" if event.disconnected else "succeeded"


def _group(event: CallEvent) -> Document | None:
    """The group that the call counts for: the id that its charge has, and the name that the caller sent."""
    group_id = event.charge.group_id if event.charge is not None else None
    return {"id": group_id, "name": event.group} if group_id is not None or event.group is not None else None


def _usage(charge: ClosedCharge) -> Document:
    """Tokens, as charged."""
    usage = charge.usage
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "total_tokens": usage.total_tokens,
    }


def _charge(charge: ClosedCharge, terms: Terms | None, granted_output: int) -> Document:
    """A charge, as it was closed, with what is needed to book it anew: its price and its bounds."""
    document: Document = {
        "id": charge.charge_id,
        "basis": charge.basis,
        "cost_tokens": charge.cost_tokens,
        "cost_micro_usd": charge.cost_micro_usd,
        "overrun": charge.overrun,
    }
    if terms is not None:
        price = terms.meter.price
        document["weight_milli"] = terms.meter.weight_milli
        document["price"] = price._asdict() if price is not None else None
        document["input_bound"] = terms.input_bound
        document["granted_output"] = granted_output
    return document


def _attempt(attempt: AttemptEvent) -> Document:
    return {
        "provider": attempt.provider,
        "model": _redacted(attempt.model),
        "charge_id": attempt.charge_id,
        "span_id": attempt.span_id,
        "error": attempt.error,
        "status": attempt.status,
        "started": _round(attempt.started_s),
        "seconds": _round(attempt.seconds),
    }


def _durations(event: CallEvent) -> Document:
    """Times in seconds; None for what there was not."""
    return {
        "total": _round(event.seconds),
        "queue": _round_any(event.queue_seconds),
        "reserve": _length(event.reserve),
        "first_output": _round_any(event.first_output_seconds),
        "provider": _round(event.provider_seconds) if event.attempts else None,
        "settle": _length(event.settle),
    }


def _add_rare_fields(event: CallEvent, data: Document) -> None:
    """Fields that are absent where there is nothing: what rules have found, quotas that only report and would have
    refused the call, and the model that was asked for if another one was called.
    """
    if event.moderation:
        data["moderation"] = [found._asdict() for found in event.moderation]
    if event.charge is not None and event.charge.would_refuse:
        data["would_refuse"] = [{"quota": quota, "code": code} for quota, code in event.charge.would_refuse]
    if event.fallback_for is not None:
        data["fallback_for"] = _redacted(event.fallback_for)


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
