"""The spans of a call, as they are encoded."""

import sys

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tollkeeper.bootstrap.events import make_event_sinks
from tollkeeper.errors import ConfigurationError
from tollkeeper.gateway.call_events import AttemptEvent, CallEvent
from tollkeeper.gateway.call_spans import make_encoder
from tollkeeper.settings import Settings
from tollkeeper.telemetry.trace_context import TraceContext, is_sampled, new_span_id


def make_event(model: str = "m", error: str | None = None, refused_by: str | None = None) -> CallEvent:
    return CallEvent(
        correlation_id="c",
        trace=TraceContext("a" * 32, "b" * 16, sampled=True),
        tenant_id=1,
        user_id=2,
        surface="embeddings",
        provider="p",
        model=model,
        error=error,
        refused_by=refused_by,
        attempts=(AttemptEvent("p", model, error, 500 if error else 200, 0.1, 0.05, new_span_id(), "chg_1"),),
        started_at=1_700_000_000.0,
        seconds=0.2,
    )


def decoded(*events: CallEvent) -> list[Span]:
    """The spans of several calls, whose messages are joined into one."""
    encode = make_encoder("host:1")
    request = ExportTraceServiceRequest.FromString(b"".join(map(encode, events)))
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def test_messages_of_several_calls_can_be_joined() -> None:
    assert [span.name for span in decoded(make_event(), make_event())] == ["embeddings", "embeddings m"] * 2


def test_a_failure_is_an_error_and_a_refusal_is_none() -> None:
    failed, attempt = decoded(make_event(error="provider_error"))
    assert (failed.status.code, attempt.status.message) == (Status.STATUS_CODE_ERROR, "provider_error")
    refused, *_ = decoded(make_event(error="rate_limited", refused_by="TOLLKEEPER_RATE_LIMIT_AI"))
    assert refused.status.code == Status.STATUS_CODE_UNSET


def test_a_span_begins_with_its_stage() -> None:
    call, attempt = decoded(make_event())
    assert call.start_time_unix_nano == 1_700_000_000 * 10**9
    assert attempt.start_time_unix_nano - call.start_time_unix_nano == pytest.approx(0.05e9, abs=1_000)
    assert attempt.end_time_unix_nano - attempt.start_time_unix_nano == pytest.approx(0.1e9, abs=1_000)


def test_a_secret_in_the_place_of_a_models_name_is_replaced() -> None:
    spans = decoded(make_event("sk-of-somebody"))
    assert "sk-of-somebody" not in str(spans)


@pytest.mark.parametrize(("ratio", "most", "least"), [(0.0, 0, 0), (0.25, 350, 150), (1.0, 1_000, 1_000)])
def test_the_ratio_is_the_share_of_traces_that_is_recorded(ratio: float, most: int, least: int) -> None:
    ids = [f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for number in range(1_000)]
    assert least <= sum(is_sampled(trace_id, ratio) for trace_id in ids) <= most


def test_without_the_library_the_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tollkeeper.gateway.call_spans", None)
    with pytest.raises(ConfigurationError, match="pip install 'opentelemetry-proto"):
        make_event_sinks(Settings(trace_url="http://127.0.0.1:4318/v1/traces"))
