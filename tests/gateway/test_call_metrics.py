"""Metrics of calls are made of their events."""

from prometheus_client import CollectorRegistry

from tollkeeper.chat import Usage
from tollkeeper.gateway.call_events import AttemptEvent, CallEvent, Stage
from tollkeeper.gateway.call_metrics import MAX_MODELS, CallMetrics
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import ClosedCharge
from tollkeeper.telemetry.trace_context import join_trace

CLOSED = ClosedCharge(
    "chg_1",
    Basis.PROVIDER,
    Usage(7, 8),
    cost_tokens=15,
    cost_micro_usd=3,
    overrun=True,
    forgiven_tokens=5,
    forgiven_micro_usd=1,
)


def make_event(model: str = "m", *, charge: ClosedCharge | None = CLOSED, error: str | None = None) -> CallEvent:
    return CallEvent(
        correlation_id="c",
        tenant_id=1,
        user_id=2,
        api_key=None,
        surface="query",
        provider="p",
        model=model,
        charge=charge,
        error=error,
        disconnected=True,
        attempts=(AttemptEvent("p", model, error, 200, 0.1),),
        trace=join_trace(()),
        started_at=0.0,
        seconds=0.2,
        reserve=Stage(0.0, 0.01),
        first_output_seconds=0.05,
    )


def counted(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(name, {"gen_ai_provider_name": "p", "gen_ai_request_model": "m"} | labels) or 0


def test_a_call_is_counted_with_its_tokens_costs_and_times() -> None:
    registry = CollectorRegistry()
    listen = CallMetrics(registry)
    listen(make_event())
    listen(make_event())
    assert counted(registry, "gen_ai_client_token_usage_total", gen_ai_token_type="input") == 14
    assert counted(registry, "tollkeeper_cost_tokens_total") == 30
    assert counted(registry, "tollkeeper_cost_micro_usd_total") == 6
    assert counted(registry, "tollkeeper_overruns_total") == 2
    assert counted(registry, "tollkeeper_forgiven_tokens_total") == 10
    assert counted(registry, "tollkeeper_forgiven_micro_usd_total") == 2
    assert counted(registry, "tollkeeper_disconnects_total") == 2
    assert counted(registry, "gen_ai_server_time_to_first_token_seconds_sum") == 0.1
    duration = counted(registry, "gen_ai_server_request_duration_seconds_sum", surface="query", error_type="")
    assert duration == 0.4


def test_a_call_that_failed_without_a_charge_is_counted_by_its_error() -> None:
    registry = CollectorRegistry()
    CallMetrics(registry)(make_event(charge=None, error="provider_timeout"))
    labels = {"surface": "query", "error_type": "provider_timeout"}
    assert counted(registry, "gen_ai_server_request_duration_seconds_count", **labels) == 1
    assert counted(registry, "tollkeeper_charges_total", basis="provider") == 0


def labels_of(registry: CollectorRegistry) -> set[str]:
    return {
        sample.labels["gen_ai_request_model"]
        for metric in registry.collect()
        if metric.name == "tollkeeper_cost_tokens"
        for sample in metric.samples
    }


def test_callers_who_invent_models_neither_add_metrics_without_end_nor_crowd_out_listed_ones() -> None:
    registry = CollectorRegistry()
    listen = CallMetrics(registry, is_listed={"m"}.__contains__)
    for number in range(MAX_MODELS + 5):
        listen(make_event(f"m{number}"))
    listen(make_event())
    found = labels_of(registry)
    assert len(found) == MAX_MODELS + 2
    assert {"m", "other"} < found


def test_a_credential_in_the_place_of_a_model_is_no_label() -> None:
    registry = CollectorRegistry()
    CallMetrics(registry)(make_event("sk-proj-0123456789"))
    assert labels_of(registry) == {"***"}
