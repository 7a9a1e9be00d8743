"""What is measured when coverage is, and that the longest tests begin first."""

import importlib
import pkgutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
PACKAGES = ("tollkeeper.quota", "tollkeeper.gateway", "tollkeeper.identity")
"""Their coverage has a floor: see `EXACT` in the Makefile."""
NOT_MEASURED = frozenset(
    {
        *("audit_log", "configuration", "deploy", "dialects", "encryption", "http_client", "journeys", "outbound"),
        *("providers", "scripts", "server", "telemetry"),
    }
)
"""Folders of tests that run little of the code whose coverage has a floor. Coverage doubles the time of a test."""


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Import all that is measured while coverage is on. Workers need not: what the controller imports counts."""
    if _coverage(session.config) is not None and not hasattr(session.config, "workerinput"):
        for package in map(importlib.import_module, PACKAGES):
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                importlib.import_module(module.name)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Measure no imports of tests and their libraries: that would double the time of them, too."""
    if (coverage := _coverage(session.config)) is None:
        return (yield)
    coverage.pause()
    try:
        return (yield)
    finally:
        if not session.config.pluginmanager.hasplugin("dsession"):  # the controller runs no tests
            coverage.resume()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS) and item.path.relative_to(TESTS).parts[0] in NOT_MEASURED:
            item.add_marker(pytest.mark.no_cover)
    first = {"proof", "long"}  # else a worker ends long after the others
    items.sort(key=lambda item: all(mark.name not in first for mark in item.iter_markers()))


def _coverage(config: pytest.Config) -> Any:
    """What measures, of pytest-cov; None if nothing does."""
    return getattr(config.pluginmanager.getplugin("_cov"), "cov_controller", None)
