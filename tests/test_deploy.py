"""What is deployed beside the server: Prometheus's rules, Grafana's dashboard, and the guide for whoever is on call."""

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from support.prometheus import find_program
from tollkeeper.bootstrap.batch_metrics import watch_batches
from tollkeeper.bootstrap.metrics import ServerMetrics

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = (PROMETHEUS / "alerts.yml").read_text()
NAMES = re.findall(r"- alert: (\w+)", ALERTS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "--lint-fatal", "alerts.yml"),
        pytest.param(("test", "rules", "alerts_test.yml"), marks=pytest.mark.exhaustive),
    ],
    ids=" ".join,
)
def test_prometheus_accepts_the_configuration_and_each_alert_fires_when_it_should(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [find_program("promtool"), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_both_ways() -> None:
    tested = (PROMETHEUS / "alerts_test.yml").read_text()
    for name in NAMES:
        assert f"name: {name} fires" in tested
        assert f"name: {name} is silent" in tested
    fires, silent = (len(re.findall(pattern, tested)) for pattern in (r"exp_samples: \[\{", r"exp_samples: \[\]"))
    assert fires == silent == len(NAMES)


def test_each_alert_says_what_to_do_and_has_a_section_in_the_guide() -> None:
    guide = (ROOT / "docs" / "guides" / "on-call.md").read_text()
    assert re.findall(r"^### (\w+)$", guide, re.MULTILINE) == NAMES
    assert len(NAMES) == len(set(NAMES)) > 10
    for name in NAMES:
        rule = ALERTS.partition(f"- alert: {name}\n")[2].partition("- alert: ")[0]
        assert re.search(r"action: '\w.{40,}'", rule), name
        assert f"runbook: docs/guides/on-call.md#{name.lower()}" in rule


def test_the_panels_of_the_dashboard_have_ids_of_their_own_and_do_not_overlap() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "tollkeeper.json").read_text())
    panels: list[dict[str, Any]] = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    for panel in panels:
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_each_metric_of_a_server_has_a_panel_and_a_line_in_the_guide() -> None:
    metrics = ServerMetrics()
    anything: Any = MagicMock()
    metrics.watch_ledger(anything, anything, anything, anything)
    metrics.watch_edge(anything, anything, anything, anything)
    metrics.watch_sinks([anything])
    metrics.watch_contents(anything)
    metrics.watch_jobs(anything, anything)
    metrics.watch_webhooks(anything, anything, anything)
    watch_batches(metrics.registry, anything, anything)
    metrics.watch_alerts(anything)
    metrics.watch_workers(0)
    metrics.watch_log(anything)
    names = {metric.name for metric in metrics.registry.collect()}
    own = {name for name in names if not name.startswith(("process_", "python_"))}
    assert len(own) > 30
    for path in (
        ROOT / "deploy" / "grafana" / "dashboards" / "tollkeeper.json",
        ROOT / "docs" / "guides" / "metrics.md",
    ):
        text = path.read_text()
        assert [name for name in sorted(own) if name not in text] == [], path
