"""Metrics of calls, from their events. Names and buckets are OpenTelemetry's where it has one: the semantic conventions
for generative AI metrics, with dots as underscores, as Prometheus's exporter writes them.

No label has a user, a key or a tenant.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram

from tollkeeper.gateway.call_events import CallEvent
from tollkeeper.quota.rules.models import Basis

DURATION_BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Those of `gen_ai.client.operation.duration`."""
FIRST_TOKEN_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Those of `gen_ai.server.time_to_first_token`."""
RESERVE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
MAX_MODELS = 200
"""How many models have metrics of their own: callers can invent names for some providers. Further ones are `other`."""
MAX_CACHED = 10_000

_CALL = ("surface", "gen_ai_provider_name", "gen_ai_request_model", "error_type")
_MODEL = ("gen_ai_provider_name", "gen_ai_request_model")


Observe = Callable[[float], None]


class _ModelMetrics(NamedTuple):
    """What counts for one model: to find a metric by its labels takes longer than to count."""

    input_tokens: Observe
    output_tokens: Observe
    cost_tokens: Observe
    cost_micro_usd: Observe
    overruns: Observe
    disconnects: Observe
    first_output: Observe


class CallMetrics:
    """A listener to the events of calls, which counts them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._durations = histogram(
            "gen_ai_server_request_duration_seconds",
            "The time of a call since its caller was authenticated, by how it ended.",
            _CALL,
            buckets=DURATION_BUCKETS_S,
        )
        self._first_outputs = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "The time of a stream until its first output.",
            _MODEL,
            buckets=FIRST_TOKEN_BUCKETS_S,
        )
        self._attempts = histogram(
            "gen_ai_client_operation_duration_seconds",
            "The time of a request to a provider, by how it ended. A call may have several.",
            (*_MODEL, "error_type"),
            buckets=DURATION_BUCKETS_S,
        )
        self._reserves = histogram(
            "tollkeeper_reserve_duration_seconds",
            "The time until the ledger has admitted or refused a call.",
            buckets=RESERVE_BUCKETS_S,
        )
        self._tokens = counter(
            "gen_ai_client_token_usage_total", "Tokens as charged, by their kind.", (*_MODEL, "gen_ai_token_type")
        )
        self._cost_tokens = counter("tollkeeper_cost_tokens_total", "Tokens deducted, after the weight.", _MODEL)
        self._cost_usd = counter("tollkeeper_cost_micro_usd_total", "Money deducted, in micro-USD.", _MODEL)
        self._charges = counter(
            "tollkeeper_charges_total", "Charges by what their cost is based on.", (*_MODEL, "basis")
        )
        self._overruns = counter("tollkeeper_overruns_total", "Charges that cost more than was held.", _MODEL)
        self._disconnects = counter("tollkeeper_disconnects_total", "Streams that their client has left.", _MODEL)
        self._models: set[str] = set()
        self._of_model = lru_cache(MAX_CACHED)(self._find_of_model)
        self._observe_duration = lru_cache(MAX_CACHED)(self._find_duration)
        self._observe_attempt = lru_cache(MAX_CACHED)(self._find_attempt)
        self._count_charge = lru_cache(MAX_CACHED)(self._find_charge)

    def __call__(self, event: CallEvent) -> None:
        """Count one call."""
        model = self._label_of(event.model)
        self._observe_duration(event.surface, event.provider, model, event.error)(event.seconds)
        for attempt in event.attempts:
            self._observe_attempt(attempt.provider, self._label_of(attempt.model), attempt.error)(attempt.seconds)
        if event.reserve_seconds is None:
            return
        self._reserves.observe(event.reserve_seconds)
        of_model = self._of_model(event.provider, model)
        if event.first_output_seconds is not None:
            of_model.first_output(event.first_output_seconds)
        if event.disconnected:
            of_model.disconnects(1)
        if (charge := event.charge) is None:
            return
        self._count_charge(event.provider, model, charge.basis)(1)
        of_model.input_tokens(charge.usage.input_tokens)
        of_model.output_tokens(charge.usage.output_tokens)
        of_model.cost_tokens(charge.cost_tokens)
        if charge.cost_micro_usd:
            of_model.cost_micro_usd(charge.cost_micro_usd)
        if charge.overrun:
            of_model.overruns(1)

    def _label_of(self, model: str) -> str:
        if model not in self._models:
            if len(self._models) >= MAX_MODELS:
                return "other"
            self._models.add(model)
        return model

    def _find_of_model(self, provider: str, model: str) -> _ModelMetrics:
        return _ModelMetrics(
            input_tokens=self._tokens.labels(provider, model, "input").inc,
            output_tokens=self._tokens.labels(provider, model, "output").inc,
            cost_tokens=self._cost_tokens.labels(provider, model).inc,
            cost_micro_usd=self._cost_usd.labels(provider, model).inc,
            overruns=self._overruns.labels(provider, model).inc,
            disconnects=self._disconnects.labels(provider, model).inc,
            first_output=self._first_outputs.labels(provider, model).observe,
        )

    def _find_duration(self, surface: str, provider: str, model: str, error: str | None) -> Observe:
        observe: Observe = self._durations.labels(surface, provider, model, error or "").observe
        return observe

    def _find_attempt(self, provider: str, model: str, error: str | None) -> Observe:
        observe: Observe = self._attempts.labels(provider, model, error or "").observe
        return observe

    def _find_charge(self, provider: str, model: str, basis: Basis) -> Observe:
        count: Observe = self._charges.labels(provider, model, basis.value).inc
        return count
