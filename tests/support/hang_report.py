"""A pytest plugin that ends a test that hangs, and adds the stacks of its tasks and threads to the report.

It also reports a crash of the interpreter. pytest's own option writes to stderr, far above the summary, and does not
cover asyncio tasks.
"""

import faulthandler
import signal
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, TextIO

import pytest

from support.depth import DEPTH
from support.task_stacks import write_tasks

TASKS_FIRST_S = 5.0
"""The stacks of the tasks are written so long before the test is ended."""

_stacks: TextIO | None = None


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    global _stacks
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is not None:
        _stacks = _file_of(worker).open("w", encoding="utf-8")
        faulthandler.enable(_stacks)
    signal.signal(signal.SIGALRM, lambda *_: write_tasks(_file()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    faulthandler.dump_traceback_later(DEPTH.test_may_take_s, exit=True, file=_file())
    signal.setitimer(signal.ITIMER_REAL, DEPTH.test_may_take_s - TASKS_FIRST_S)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: Any) -> None:
    """Add the stacks that a crashed worker has written to its report."""
    left = _file_of(report.node.workerinput)
    report.longrepr = f"{report.longrepr}\n{left.read_text(encoding='utf-8')}"
    left.unlink()


def pytest_unconfigure() -> None:
    if _stacks is not None:
        faulthandler.disable()
        _stacks.close()
        Path(_stacks.name).unlink(missing_ok=True)


def _file() -> TextIO:
    return _stacks or sys.__stderr__ or sys.stderr


def _file_of(worker: dict[str, Any]) -> Path:
    return Path(tempfile.gettempdir(), f"tests-{worker['testrunuid']}-{worker['workerid']}.stacks")
