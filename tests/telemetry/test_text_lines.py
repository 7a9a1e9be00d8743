"""At a terminal, or where the setting says so, a log line is text: readable, escaped and without secrets."""

import re
import subprocess
import sys

from support.deadlines import TEST_DEADLINE_S

PROGRAM = """
import structlog
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.logging import AccessLog, configure_logging
configure_logging("info", as_text=True)
AccessLog("info", as_text=True).write(
    method="GET", path="/a\\x1b[31m\\nb", status=200, seconds=0.0123, correlation_id="id-1"
)
correlation_id.set("id-2")
log = structlog.get_logger("tollkeeper.test")
log.info("test.happened", reason="sk-secret", error=None, count=3)
try:
    raise RuntimeError("line one\\nline two tk-secret")
except RuntimeError:
    log.exception("test.failed")
"""


def test_lines_are_readable_and_escaped_and_tracebacks_are_below_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=TEST_DEADLINE_S, check=True
    )
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in done.stdout.splitlines()]
    assert lines[:3] == [
        r"info    http.request method=GET path=/a\x1b[31m\x0ab status=200 seconds=0.012 correlation_id=id-1",
        "info    test.happened reason=*** count=3 correlation_id=id-2",
        "error   test.failed correlation_id=id-2",
    ]
    assert lines[3] == "Traceback (most recent call last):"
    assert lines[-2:] == ["RuntimeError: line one", "line two ***"]
    assert done.stderr == ""
