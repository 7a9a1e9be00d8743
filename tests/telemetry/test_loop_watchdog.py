"""The watchdog of the event loop names what blocks it, once per stall, and costs an idle loop nothing but ticks."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient
from structlog.testing import capture_logs
from structlog.typing import EventDict

from support.deadlines import TEST_DEADLINE_S
from tollkeeper.bootstrap import application
from tollkeeper.settings import Settings
from tollkeeper.telemetry import loop_watchdog
from tollkeeper.telemetry.loop_watchdog import LoopWatchdog

IDLE_PROCESS = """
import asyncio
from tollkeeper.telemetry import logging, loop_watchdog

async def main():
    loop_watchdog.STALL_S = 1.0
    loop_watchdog.LoopWatchdog().start()
    await asyncio.sleep(0.2)
    print("started", flush=True)
    await asyncio.to_thread(input)

logging.configure_logging("info")
asyncio.run(main())
"""


@asynccontextmanager
async def watched() -> AsyncIterator[list[EventDict]]:
    """A watchdog on this loop. Yields the lines that it logs."""
    watchdog = LoopWatchdog()
    with capture_logs() as logs:
        watchdog.start()
        await asyncio.sleep(0)
        yield logs
        await watchdog.stop()


async def wait_for_lines(logs: list[EventDict], count: int = 1) -> None:
    async with asyncio.timeout(TEST_DEADLINE_S):
        while len(logs) < count:
            await asyncio.sleep(0.01)


def block(seconds: float) -> None:
    time.sleep(seconds)


async def test_a_blocking_call_is_named_with_its_duration() -> None:
    async with watched() as logs:
        block(0.5)
        await wait_for_lines(logs)
    [line] = logs
    assert line["event"] == "loop.stalled"
    assert line["stalled_s"] >= 0.5
    innermost, caller = line["stack"][:2]
    assert innermost.startswith("test_loop_watchdog.py:block:")
    assert caller.startswith("test_loop_watchdog.py:test_a_blocking_call_is_named_with_its_duration:")
    assert "asyncio/events.py:Handle._run:" in "".join(line["stack"])
    assert not [place for place in line["stack"] if place.startswith("/")]


async def test_an_idle_loop_logs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watchdog, "STALL_S", 1.0)  # a busy machine may suspend this process for a while
    async with watched() as logs:
        await asyncio.sleep(1.5)
    assert logs == []


async def test_a_stall_that_does_not_end_is_logged_while_it_lasts_and_only_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_watchdog, "MAX_UNLOGGED_S", 0.4)
    async with watched() as logs:
        block(1.0)
        assert len(logs) == 1
        assert 0.4 <= logs[0]["stalled_s"] < 1.0
        await asyncio.sleep(0.2)
    assert len(logs) == 1


async def test_more_than_some_lines_a_minute_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watchdog, "MAX_LINES_PER_MINUTE", 2)
    monkeypatch.setattr(loop_watchdog, "STALL_S", 0.05)
    monkeypatch.setattr(loop_watchdog, "TICK_S", 0.01)
    async with watched() as logs:
        for _ in range(4):
            block(0.1)
            await asyncio.sleep(0.1)
    assert len(logs) == 2


def test_a_suspended_process_logs_at_most_one_line() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", IDLE_PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.5)
    output, _ = process.communicate("\n", timeout=TEST_DEADLINE_S)
    assert process.returncode == 0
    assert output.count("\n") == output.count("loop.stalled") <= 1


def test_a_running_server_has_a_watchdog_and_a_stopped_one_has_none(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(application, "_freeze_startup_objects", lambda: None)
    settings = Settings(database_url=sqlite_url, signing_secret=SecretStr("0123456789abcdef" * 2))
    with TestClient(application.make_app(settings)):
        assert "loop-watchdog" in _threads()
    assert "loop-watchdog" not in _threads()


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}
