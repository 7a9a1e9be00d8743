"""The health checks of a server: what each part knows of its own state, as problems for operators."""

import time
from collections.abc import Callable, Iterator, Sequence

from tollkeeper.bootstrap.events import EventSink
from tollkeeper.bootstrap.reload import Reload
from tollkeeper.database.clock import DatabaseClock
from tollkeeper.providers.breaker import CircuitBreaker
from tollkeeper.providers.catalog import Catalog
from tollkeeper.providers.credentials import CredentialType
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.maintenance import Maintenance
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.telemetry.health import Health, HealthState, Problem
from tollkeeper.telemetry.redaction import redact

DROPPED_S = 300.0
"""How long a loss of events is a problem after it was seen."""
NAMED_MODELS = 3
"""How many failing models are named: a caller may have invented their names."""


def make_health(
    ledger: Ledger,
    catalog: Catalog,
    maintenance: Maintenance,
    clock: DatabaseClock,
    reload: Reload,
    throttle: Throttle,
    sinks: Sequence[EventSink] = (),
    is_stopping: Callable[[], bool] = lambda: False,
) -> Health:
    """The checks of the parts of a running server."""
    return Health(
        (
            lambda: _ledger_problems(ledger),
            lambda: _sweep_problems(ledger, maintenance),
            lambda: _clock_problems(clock),
            lambda: _breaker_problems(catalog),
            lambda: _credential_problems(catalog),
            lambda: _reload_problems(reload),
            lambda: _limit_problems(throttle),
            *(_SinkCheck(sink) for sink in sinks),
        ),
        is_stopping,
    )


def _ledger_problems(ledger: Ledger) -> Iterator[Problem]:
    if (outage := ledger.outage) is not None:
        yield Problem("ledger", HealthState.UNHEALTHY, f"No call is admitted: {outage.reason}", outage.since_ms)


def _sweep_problems(ledger: Ledger, maintenance: Maintenance) -> Iterator[Problem]:
    if ledger.available and maintenance.sweep_is_late:
        seconds = round(maintenance.seconds_since_sweep)
        detail = f"The last sweep ended {seconds} s ago: holds of processes that died stay reserved."
        yield Problem("sweep", HealthState.DEGRADED, detail)


def _clock_problems(clock: DatabaseClock) -> Iterator[Problem]:
    if clock.is_off and clock.skew_s is not None:
        detail = f"The database's clock is {clock.skew_s:+.1f} s off this machine's. Synchronize both (NTP)."
        yield Problem("clock", HealthState.DEGRADED, detail)


def _limit_problems(throttle: Throttle) -> Iterator[Problem]:
    if throttle.store_is_away:
        detail = "TOLLKEEPER_LIMITS_STORE does not answer: each process counts requests for itself. Quotas are exact."
        yield Problem("limits_store", HealthState.DEGRADED, detail)


def _breaker_problems(catalog: Catalog) -> Iterator[Problem]:
    for breaker in catalog.breakers:
        if (detail := _describe(breaker)) is not None:
            yield Problem("breakers", HealthState.DEGRADED, detail)


def _describe(breaker: CircuitBreaker) -> str | None:
    if breaker.is_disconnected:
        return f"The provider {breaker.name} cannot be reached: most of its calls fail at once."
    if failing := breaker.open_models:
        names = ", ".join(map(redact, sorted(failing)[:NAMED_MODELS]))
        others = f" and {len(failing) - NAMED_MODELS} others" if len(failing) > NAMED_MODELS else ""
        return f"The provider {breaker.name} fails for {names}{others}: most of these calls fail at once."
    return None


def _credential_problems(catalog: Catalog) -> Iterator[Problem]:
    """A tenant's own key is not among them: only calls of that tenant fail."""
    for one in catalog.credentials():
        if one.type is not CredentialType.TENANT_KEY and one.verdict is not None and not one.verdict.valid:
            detail = f"The provider {one.provider} refuses its credential. GET /auth-status shows all."
            yield Problem("credentials", HealthState.DEGRADED, detail, one.verdict.since_ms)


def _reload_problems(reload: Reload) -> Iterator[Problem]:
    if reload.problem is not None:
        detail, since_ms = reload.problem
        yield Problem("configuration", HealthState.DEGRADED, f"The last reload changed nothing: {detail}", since_ms)


class _SinkCheck:
    """A sink of events that cannot write, or that has lost some."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self._dropped = 0
        self._seen_at: float | None = None

    def __call__(self) -> Iterator[Problem]:
        dropped, now = self._sink.dropped, time.monotonic()
        if dropped > self._dropped:
            self._dropped, self._seen_at = dropped, now
        if self._seen_at is not None and now - self._seen_at < DROPPED_S:
            yield self._problem(f"has lost events since the start (calls: {dropped})")
        elif self._sink.is_failing:
            yield self._problem("cannot write the events of calls: they wait in its queue")

    def _problem(self, what: str) -> Problem:
        return Problem("events", HealthState.DEGRADED, f"The sink {self._sink.name} {what}. The log says why.")
