"""Which tests are measured when coverage is, and that the longest tests begin first."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NOT_MEASURED = frozenset(
    {
        *("audit_log", "configuration", "deploy", "dialects", "encryption", "http_client", "journeys", "outbound"),
        *("providers", "scripts", "server", "telemetry"),
    }
)
"""Folders of tests that run little of the code whose coverage has a floor. Coverage doubles the time of a test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS) and item.path.relative_to(TESTS).parts[0] in NOT_MEASURED:
            item.add_marker(pytest.mark.no_cover)
    items.sort(key=lambda item: item.get_closest_marker("proof") is None)  # else a worker ends long after the others
