"""Log lines have known fields only; the code names no other."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import tollkeeper
from support.plain_logs import print_plain_logs
from tollkeeper.telemetry.log_fields import FIELDS
from tollkeeper.telemetry.logging import configure_logging

LEVELS = {"debug", "info", "warning", "error", "exception"}
ADDED = {"correlation_id", "event", "exception", "level", "logger", "message", "timestamp", "worker"}
"""Fields that the logging itself adds."""
BY_NAME = {"code", "model", "provider", "provider_code", "seconds", "status", "text"}
"""Fields of `provider.failed`, which are put together before they are logged."""


@pytest.fixture
def logged() -> Iterator[None]:
    configure_logging("info")
    yield
    print_plain_logs()


def test_the_code_logs_the_fields_on_the_list_and_no_others() -> None:
    named: set[str] = set()
    for path in Path(tollkeeper.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            target = node.func.value
            if node.func.attr in LEVELS and isinstance(target, ast.Name) and target.id == "log":
                named |= {keyword.arg for keyword in node.keywords if keyword.arg is not None}
    assert (named - {"exc_info"}) | ADDED | BY_NAME == FIELDS


@pytest.mark.usefixtures("logged")
def test_another_field_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.get_logger().warning("test.happened", reason="why", prompt="a secret")
    line = json.loads(capsys.readouterr().out)
    assert (line["reason"], line["left_out"]) == ("why", ["prompt"])
    assert "prompt" not in line
