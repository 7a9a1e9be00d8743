"""Metrics of calls, from their events. Names and buckets are OpenTelemetry's where it has one: the semantic conventions
for generative AI metrics, with dots as underscores, as Prometheus's exporter writes them.

No label has a user, a key or a tenant.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from tollkeeper.gateway.call_events import CallEvent
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import ClosedCharge
from tollkeeper.telemetry.redaction import redact
from tollkeeper.telemetry.tallies import Count, Counters, Histograms

DURATION_BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Those of `gen_ai.client.operation.duration`."""
FIRST_TOKEN_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Those of `gen_ai.server.time_to_first_token`."""
RESERVE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
MAX_MODELS = 200
"""How many models that are not listed have metrics of their own: callers can invent names for some providers. Further
ones are `other`.
"""
MAX_CACHED = 10_000

_CALL = ("surface", "gen_ai_provider_name", "gen_ai_request_model", "error_type")
_MODEL = ("gen_ai_provider_name", "gen_ai_request_model")


Observe = Callable[[float], None]


class _ModelMetrics(NamedTuple):
    """What counts for one model: to find a metric by its labels takes longer than to count."""

    input_tokens: Count
    output_tokens: Count
    cost_tokens: Count
    cost_micro_usd: Count
    forgiven_tokens: Count
    forgiven_micro_usd: Count
    overruns: Count
    disconnects: Count
    first_output: Observe


class CallMetrics:
    """A listener to the events of calls, which counts them."""

    def __init__(self, registry: CollectorRegistry, is_listed: Callable[[str], bool] = lambda _: False) -> None:
        counter = partial(Counters, registry=registry)
        histogram = partial(Histograms, registry=registry)
        self._durations = histogram(
            "gen_ai_server_request_duration_seconds",
            "The time of a call since its caller was authenticated, by how it ended.",
            _CALL,
            bounds=DURATION_BUCKETS_S,
        )
        self._first_outputs = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "The time of a stream until its first output.",
            _MODEL,
            bounds=FIRST_TOKEN_BUCKETS_S,
        )
        self._attempts = histogram(
            "gen_ai_client_operation_duration_seconds",
            "The time of a request to a provider, by how it ended. A call may have several.",
            (*_MODEL, "error_type"),
            bounds=DURATION_BUCKETS_S,
        )
        self._reserves = histogram(
            "tollkeeper_reserve_duration_seconds",
            "The time until the ledger has admitted or refused a call.",
            (),
            bounds=RESERVE_BUCKETS_S,
        ).of()
        self._queue_waits = histogram(
            "tollkeeper_reserve_queue_duration_seconds",
            "The part of it in which the call waited for the ledger's journal.",
            (),
            bounds=RESERVE_BUCKETS_S,
        ).of()
        self._settles = histogram(
            "tollkeeper_settle_duration_seconds",
            "The time until the ledger has closed the charge of a call.",
            (),
            bounds=RESERVE_BUCKETS_S,
        ).of()
        self._tokens = counter(
            "gen_ai_client_token_usage_total", "Tokens as charged, by their kind.", (*_MODEL, "gen_ai_token_type")
        )
        self._disconnects = counter("tollkeeper_disconnects_total", "Streams that their client has left.", _MODEL)
        self._moderation = counter(
            "tollkeeper_moderation_findings_total",
            "Calls in which a rule of a tenant's moderation has found something.",
            ("kind", "stage", "action", "enforced"),
        )
        self._add_cost_counters(counter)
        self.is_listed = is_listed
        """Whether a name is that of a listed model."""
        self._listed: set[str] = set()
        self._unlisted: dict[str, str] = {}
        self._of_model = lru_cache(MAX_CACHED)(self._find_of_model)
        self._observe_duration = lru_cache(MAX_CACHED)(self._find_duration)
        self._observe_attempt = lru_cache(MAX_CACHED)(self._find_attempt)
        self._charges_of = lru_cache(MAX_CACHED)(self._find_charge)

    def _add_cost_counters(self, counter: Callable[..., Counters]) -> None:
        """The counters of what calls cost, and of what quotas would have refused."""
        self._cost_tokens = counter("tollkeeper_cost_tokens_total", "Tokens deducted, after the weight.", _MODEL)
        self._cost_usd = counter("tollkeeper_cost_micro_usd_total", "Money deducted, in micro-USD.", _MODEL)
        self._charges = counter(
            "tollkeeper_charges_total", "Charges by what their cost is based on.", (*_MODEL, "basis")
        )
        self._forgiven_tokens = counter(
            "tollkeeper_forgiven_tokens_total", "Tokens of holds that were not deducted, for outcomes unknown.", _MODEL
        )
        self._forgiven_usd = counter(
            "tollkeeper_forgiven_micro_usd_total", "Money of holds that was not deducted, in micro-USD.", _MODEL
        )
        self._overruns = counter("tollkeeper_overruns_total", "Charges that cost more than was held.", _MODEL)
        self._would_refuse = counter(
            "tollkeeper_quota_would_refuse_total",
            "Calls that a quota which only reports would have refused, by the quota and the code of the error.",
            ("quota", "code"),
        )
        self._quota_fallbacks = counter(
            "tollkeeper_quota_fallbacks_total",
            "Calls that another model has answered, since a quota was spent.",
            _MODEL,
        )

    def __call__(self, event: CallEvent) -> None:
        """Count one call."""
        model = self._label_of(event.model)
        self._observe_duration(event.surface, event.provider, model, event.error)(event.seconds)
        for found in event.moderation:
            self._moderation.of(found.kind, found.stage, found.action, str(found.enforced).lower()).value += 1
        for attempt in event.attempts:
            label = model if attempt.model == event.model else self._label_of(attempt.model)
            self._observe_attempt(attempt.provider, label, attempt.error)(attempt.seconds)
        if event.reserve is None:
            return
        self._reserves.observe(event.reserve.seconds)
        if event.queue_seconds is not None:
            self._queue_waits.observe(event.queue_seconds)
        if event.settle is not None:
            self._settles.observe(event.settle.seconds)
        of_model = self._of_model(event.provider, model)
        if event.first_output_seconds is not None:
            of_model.first_output(event.first_output_seconds)
        if event.disconnected:
            of_model.disconnects.value += 1
        if event.fallback_for is not None:
            self._quota_fallbacks.of(event.provider, model).value += 1
        if event.charge is not None:
            self._charges_of(event.provider, model, event.charge.basis).value += 1
            self._count_cost(event.charge, of_model)

    def _count_cost(self, charge: ClosedCharge, of_model: _ModelMetrics) -> None:
        of_model.input_tokens.value += charge.usage.input_tokens
        of_model.output_tokens.value += charge.usage.output_tokens
        of_model.cost_tokens.value += charge.cost_tokens
        if charge.cost_micro_usd:
            of_model.cost_micro_usd.value += charge.cost_micro_usd
        if charge.forgiven_tokens:
            of_model.forgiven_tokens.value += charge.forgiven_tokens
        if charge.forgiven_micro_usd:
            of_model.forgiven_micro_usd.value += charge.forgiven_micro_usd
        if charge.overrun:
            of_model.overruns.value += 1
        for quota, code in charge.would_refuse:
            self._would_refuse.of(quota, code).value += 1

    def _label_of(self, model: str) -> str:
        """Names that callers invent neither crowd out the listed ones, nor show a secret in the place of a name."""
        if model in self._listed:
            return model
        if (label := self._unlisted.get(model)) is not None:
            return label
        if self.is_listed(model):
            self._listed.add(model)
            return model
        if len(self._unlisted) >= MAX_MODELS:
            return "other"
        return self._unlisted.setdefault(model, redact(model))

    def _find_of_model(self, provider: str, model: str) -> _ModelMetrics:
        return _ModelMetrics(
            input_tokens=self._tokens.of(provider, model, "input"),
            output_tokens=self._tokens.of(provider, model, "output"),
            cost_tokens=self._cost_tokens.of(provider, model),
            cost_micro_usd=self._cost_usd.of(provider, model),
            forgiven_tokens=self._forgiven_tokens.of(provider, model),
            forgiven_micro_usd=self._forgiven_usd.of(provider, model),
            overruns=self._overruns.of(provider, model),
            disconnects=self._disconnects.of(provider, model),
            first_output=self._first_outputs.of(provider, model).observe,
        )

    def _find_duration(self, surface: str, provider: str, model: str, error: str | None) -> Observe:
        return self._durations.of(surface, provider, model, error or "").observe

    def _find_attempt(self, provider: str, model: str, error: str | None) -> Observe:
        return self._attempts.of(provider, model, error or "").observe

    def _find_charge(self, provider: str, model: str, basis: Basis) -> Count:
        return self._charges.of(provider, model, basis.value)
