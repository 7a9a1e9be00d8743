"""Each line of the log is one JSON object, whoever wrote it, and no line has a secret."""

import json
import subprocess
import sys
from typing import Any

import pytest

from support.deadlines import TEST_DEADLINE_S

PREPARED = """
import asyncio, gc, logging, threading, warnings
import structlog
from tollkeeper.telemetry.logging import configure_logging, log_uncaught_exceptions
configure_logging("info")
log_uncaught_exceptions()
async def crash():
    raise RuntimeError("line one\\nline two tk-secret postgresql://me:secret@db/x")
"""
TASK = """
async def main():
    asyncio.create_task(crash())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
asyncio.run(main())
"""
CALLBACK = """
def use(future):
    raise ValueError("bad")
async def main():
    future = asyncio.get_running_loop().create_future()
    future.set_result("secret")
    asyncio.get_running_loop().call_soon(use, future)
    await asyncio.sleep(0)
asyncio.run(main())
"""
THREAD = """
thread = threading.Thread(target=lambda: asyncio.run(crash()), name="worker")
thread.start()
thread.join()
"""
FINALIZER = """
class Broken:
    def __del__(self):
        raise KeyError("sk-secret")
Broken()
"""
HANDLED = """
try:
    asyncio.run(crash())
except RuntimeError:
    structlog.get_logger().exception("own.failed", reason="eyJsecret.eyJsecret.secret")
"""
SITUATIONS: list[tuple[str, dict[str, Any], str]] = [
    (TASK, {"logger": "asyncio", "message": "Task exception was never retrieved <crash>"}, "RuntimeError: line one\n"),
    (CALLBACK, {"logger": "asyncio", "message": "Exception in callback use"}, "ValueError: bad"),
    (THREAD, {"event": "process.thread_failed", "thread": "worker"}, "RuntimeError: line one\n"),
    (FINALIZER, {"event": "process.unraisable"}, "KeyError: '***'"),
    ("asyncio.run(crash())", {"event": "process.failed"}, "line two *** postgresql://***@db/x"),
    (HANDLED, {"event": "own.failed", "reason": "***"}, "line two *** postgresql://***@db/x"),
    ('logging.getLogger("uvicorn.error").error("a\\n%s", "b")', {"message": "a\nb", "level": "error"}, ""),
    ('logging.getLogger("lib").warning("a %d", "b")', {"message": "a %d", "level": "warning", "logger": "lib"}, ""),
    ('structlog.get_logger().warning("odd", text="\\ud800", count=2**70)', {"text": "\ud800", "count": 2**70}, ""),
]


@pytest.mark.parametrize(("code", "fields", "exception"), SITUATIONS)
def test_what_goes_wrong_is_one_line_of_json(code: str, fields: dict[str, Any], exception: str) -> None:
    line = logged(code)
    assert fields.items() <= line.items()
    assert exception in line.get("exception", "")
    assert "secret" not in json.dumps(line)


def test_a_warning_is_one_line_of_json() -> None:
    line = logged('warnings.warn("odd\\ntk-secret", UserWarning)')
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "UserWarning: odd\n***" in line["message"]


def logged(code: str) -> dict[str, Any]:
    """The one line that a process writes which runs the code."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARED + code], capture_output=True, text=True, timeout=TEST_DEADLINE_S, check=False
    )
    assert done.stderr == ""
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line.keys() >= {"event", "level", "timestamp"}
    return dict(line)
