"""What the parts of a server report as problems, and how bad each is."""

import time
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tollkeeper.bootstrap import health as health_module
from tollkeeper.bootstrap.health import make_health
from tollkeeper.bootstrap.reload import Reload
from tollkeeper.database.clock import DatabaseClock, read_skew_s
from tollkeeper.database.engine import Database
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.maintenance import Maintenance
from tollkeeper.quota.outage import OutageNote
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.telemetry.health import Health, HealthState, Problem, worst


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.close()


def health_with(
    *,
    outage: OutageNote | None = None,
    sweep_is_late: bool = False,
    skew_s: float | None = 0.0,
    reload_problem: tuple[str, int] | None = None,
    sinks: Sequence[Any] = (),
    store_is_away: bool = False,
    **breaker: Any,
) -> Health:
    ledger = SimpleNamespace(outage=outage, available=outage is None)
    maintenance = SimpleNamespace(sweep_is_late=sweep_is_late, seconds_since_sweep=200.4)
    clock = DatabaseClock(cast(Database, None))
    clock.skew_s = skew_s
    breakers = [SimpleNamespace(**{"name": "one", "is_disconnected": False, "open_models": []} | breaker)]
    catalog = SimpleNamespace(breakers=breakers, credentials=list)
    reload = SimpleNamespace(problem=reload_problem)
    return make_health(
        cast(Ledger, ledger),
        cast(Catalog, catalog),
        cast(Maintenance, maintenance),
        clock,
        cast(Reload, reload),
        cast(Throttle, SimpleNamespace(store_is_away=store_is_away)),
        sinks,
    )


def test_a_server_without_problems_is_healthy() -> None:
    assert health_with().problems() == health_with(skew_s=None).problems() == health_with(skew_s=-1.9).problems() == []
    assert worst([]) is HealthState.HEALTHY


def test_an_outage_of_the_ledger_is_unhealthy_and_a_late_sweep_is_its_consequence() -> None:
    found = health_with(outage=OutageNote("disk I/O error", 17), sweep_is_late=True).problems()
    assert found == [Problem("ledger", HealthState.UNHEALTHY, "No call is admitted: disk I/O error", 17)]
    assert worst(found) is HealthState.UNHEALTHY


def test_what_needs_an_operator_but_serves_calls_is_degraded() -> None:
    found = health_with(
        sweep_is_late=True, skew_s=-2.5, open_models=["d", "c", "b", "a"], reload_problem=("no", 9), store_is_away=True
    ).problems()
    assert [(problem.check, problem.state) for problem in found] == [
        ("sweep", HealthState.DEGRADED),
        ("clock", HealthState.DEGRADED),
        ("breakers", HealthState.DEGRADED),
        ("configuration", HealthState.DEGRADED),
        ("limits_store", HealthState.DEGRADED),
    ]
    assert "200 s ago" in found[0].detail
    assert "-2.5 s" in found[1].detail
    assert "fails for a, b, c and 1 others" in found[2].detail
    assert worst(found) is HealthState.DEGRADED


def test_a_name_that_looks_like_a_secret_is_redacted() -> None:
    [found] = health_with(open_models=["sk-0123456789abcdefghijklmnop"]).problems()
    assert "0123456789" not in found.detail


def test_a_sink_that_has_lost_events_is_a_problem_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = SimpleNamespace(name="http", dropped=0, is_failing=False)
    health = health_with(sinks=[sink])
    assert health.problems() == []
    sink.is_failing = True
    [waiting] = health.problems()
    assert (waiting.check, waiting.state, "wait in its queue" in waiting.detail) == (
        "events",
        HealthState.DEGRADED,
        True,
    )
    sink.dropped, sink.is_failing = 7, False
    [lossy] = health.problems()
    assert "lost events since the start (calls: 7)" in lossy.detail
    monkeypatch.setattr(health_module, "DROPPED_S", 0.0)
    assert health.problems() == []


@pytest.mark.parametrize(("before_s", "after_s", "skew_s"), [(-300, 100, 0), (-400, -300, 300), (300, 400, -300)])
async def test_a_slow_query_is_no_difference_of_clocks(
    database: Database, monkeypatch: pytest.MonkeyPatch, before_s: float, after_s: float, skew_s: float
) -> None:
    """What is read lies between the times before and after the query, or differs by the distance to the nearer one."""
    readings = iter([time.time() + before_s, time.time() + after_s])
    monkeypatch.setattr("tollkeeper.database.clock.time", SimpleNamespace(time=lambda: next(readings)))
    assert abs(await read_skew_s(database) - skew_s) < 60
