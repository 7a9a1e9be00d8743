"""A real Prometheus scrapes a server with traffic: each panel of the dashboard has data, each alert its metrics."""

import math
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from journeys.support.endpoints import NATIVE_STREAM, call
from journeys.support.processes import ReservedPort
from journeys.support.server import Server
from journeys.support.users import ApiUser, add_user, http_client, new_user
from journeys.upstream.handle import Upstream, scripted
from support.dashboard import fill_in, panels
from support.prometheus import Prometheus, scraping
from tollkeeper.configuration.models import ModerationPolicy
from tollkeeper.database.engine import Database
from tollkeeper.moderation.documents import PolicyDocument, write_document
from tollkeeper.quota.rules.models import Quota

CALLS_PER_USER = 7
BREAKER_FAILURES = 2
CATALOG = """
closed = true
default = "near"

[providers.near]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"

[providers.far]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "OPENAI_API_KEY"

[models.near]
provider = "near"

[models.far]
provider = "far"
"""
UNRATED = "Mean score"
"""The panel that shows a gap: no answer was rated."""
SELECTOR = re.compile(r"\b((?:tollkeeper|gen_ai|http_server|process)_\w+|up)\b(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\bby \(([^)]*)\)")


@pytest.fixture
def ports() -> Iterator[tuple[ReservedPort, ReservedPort]]:
    """The port of the metrics, and one at which nothing listens."""
    reserved = ReservedPort(), ReservedPort()
    yield reserved
    for port in reserved:
        port.free()


@pytest.fixture
async def tenant_id(database_url: str) -> int:
    """A tenant, of before the server's start, whose moderation has a rule that blocks, and one that only reports."""
    watched = {"name": "watched", "action": "block", "words": ["unreachable"], "stages": ["input"], "report_only": True}
    blocked = {"name": "blocked", "action": "block", "words": ["heron"], "stages": ["input"]}
    document = write_document(msgspec.convert({"rules": [watched, blocked]}, PolicyDocument))
    database = Database(database_url)
    try:
        principal, _ = await add_user(database)
        async with database.session() as session:
            session.add(
                Quota(tenant_id=principal.tenant_id, kind="tenant", period="total", granted=0, report_only=True)
            )
            session.add(ModerationPolicy(tenant_id=principal.tenant_id, document=document, changed_ms=0))
    finally:
        await database.close()
    return principal.tenant_id


@pytest.fixture
def busy_server(
    make_server: Callable[..., Server],
    database_url: str,
    own_upstream: Upstream,
    ports: tuple[ReservedPort, ReservedPort],
    tenant_id: int,
    tmp_path: Path,
) -> Server:
    """A server with two providers, one of which cannot be reached."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(upstream=own_upstream.anthropic_url, port=ports[1].number))
    return make_server(
        database_url,
        TOLLKEEPER_CATALOG=str(catalog),
        TOLLKEEPER_METRICS_PORT=str(ports[0].number),
        TOLLKEEPER_BREAKER_FAILURES=str(BREAKER_FAILURES),
        TOLLKEEPER_BREAKER_SECONDS="600",
        TOLLKEEPER_EVENTS_FILE=str(tmp_path / "events" / "events.jsonl"),
        TOLLKEEPER_RATE_LIMIT_AI=f"{CALLS_PER_USER}/hour",
        TOLLKEEPER_EMBEDDING_MODEL="near",
    ).start()


@pytest.fixture
async def prometheus(
    busy_server: Server, ports: tuple[ReservedPort, ReservedPort], tenant_id: int, tmp_path: Path
) -> AsyncIterator[Prometheus]:
    """A Prometheus that has scraped the server between two rounds of traffic, and after the second one."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    async with scraping([f"127.0.0.1:{ports[0].number}"], folder) as running:
        for number in (1, 2):
            async with new_user(busy_server, limit=10_000, tenant_id=tenant_id) as caller:
                await make_traffic(caller)
            calls = number * (CALLS_PER_USER + 1)
            await running.wait_for(f"sum(gen_ai_server_request_duration_seconds_count) == {calls}")
        yield running


async def make_traffic(caller: ApiUser) -> None:
    """Calls that succeed, are refused and fail; and requests that are refused before a call begins."""
    assert (await caller.query(scripted(caller.marker), model="near")).status == 200
    assert (await call(caller, NATIVE_STREAM, scripted(caller.marker), "near")).status == 200
    assert (await caller.query("too much", model="near", max_tokens=100_000)).code == "quota_exceeded"
    for _ in range(3):
        assert (await caller.query("unreachable", model="far")).code == "provider_unavailable"
    assert (await caller.query("Heron", model="near")).code == "content_blocked"
    assert (await caller.query("too fast", model="near")).code == "rate_limited"
    wrong = {"username": caller.email, "password": "wrong"}
    async with caller.http.post("/auth/login", json=wrong) as response:
        assert response.status == 401


@pytest.mark.prove_only_on_postgres
async def test_every_panel_has_data_and_every_alert_names_metrics_that_exist(
    prometheus: Prometheus, busy_server: Server
) -> None:
    for panel in panels():
        for target in panel["targets"]:
            expression = fill_in(target["expr"])
            samples = await prometheus.query(expression)
            numbers = [float(sample["value"][1]) for sample in samples]
            assert numbers, (panel["title"], expression)
            is_empty = all(map(math.isnan, numbers))
            assert is_empty == (panel["title"] == UNRATED), (panel["title"], expression)
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert all(label in sample["metric"] for sample in samples), (panel["title"], label)

    rules = {rule["name"]: rule for rule in await prometheus.rules()}
    for name, rule in rules.items():
        assert rule["health"] == "ok", rule
        existing: set[str] = set()
        for metric, matchers in SELECTOR.findall(GROUPING.sub("", rule["query"])):
            labels = await prometheus.labels_of(metric)
            assert labels, f"{name} names {metric}, which the server does not have"
            assert set(re.findall(r"(\w+)(?:=|!)", matchers)) <= labels, (name, metric)
            existing |= labels
        grouped = {label.strip() for labels in GROUPING.findall(rule["query"]) for label in labels.split(",")}
        assert grouped <= existing, name
    await prometheus.wait_for('ALERTS{alertname="TollkeeperBreakerOpen",alertstate="pending"}')
    assert rules["TollkeeperDown"]["state"] == rules["TollkeeperLedgerUnavailable"]["state"] == "inactive"

    async def value(expression: str) -> float:
        (sample,) = await prometheus.query(f"sum({expression})")
        return float(sample["value"][1])

    assert await value('tollkeeper_refusals_by_limit_total{setting="TOLLKEEPER_RATE_LIMIT_AI"}') == 2
    assert await value("tollkeeper_refusals_by_limit_total") == 2
    assert await value("tollkeeper_failed_logins_total") == 2
    assert await value('tollkeeper_moderation_findings_total{enforced="false"}') == 6
    assert await value('tollkeeper_moderation_findings_total{enforced="true"}') == 2
    assert await value('tollkeeper_quota_would_refuse_total{quota="tenant-total"}') > 0
    assert await value("tollkeeper_authentication_failures_total") == 2
    assert await value('tollkeeper_breaker_open{gen_ai_provider_name="far",circuit="connection"}') == 1
    assert await value('tollkeeper_breaker_open{gen_ai_provider_name="near"}') == 0
    assert await value('http_server_request_duration_seconds_count{http_response_status_code="429"}') == 4
    async with http_client(busy_server) as http, http.get("/metrics") as response:
        assert (response.status, "on the port of TOLLKEEPER_METRICS_PORT" in await response.text()) == (404, True)
    busy_server.stop()
