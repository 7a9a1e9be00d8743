"""The deployed dashboard, and its expressions as Grafana sends them to Prometheus."""

import json
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "tollkeeper.json"


def panels() -> list[dict[str, Any]]:
    """All panels but the headings."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def fill_in(expression: str, *, instance: str = ".*", interval: str = "1m") -> str:
    """An expression of a panel, with the values of the dashboard's variables."""
    return expression.replace("$__rate_interval", interval).replace("$instance", instance)


def expression_of(title: str, metric: str, *, instance: str, interval: str) -> str:
    """The only expression of a panel that names this metric."""
    [found] = [
        target["expr"]
        for panel in panels()
        if panel["title"] == title
        for target in panel["targets"]
        if metric in target["expr"]
    ]
    return fill_in(found, instance=instance, interval=interval)
