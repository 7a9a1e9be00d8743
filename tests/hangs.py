"""A test that hangs is ended and named, and where every thread stood is in the report, beside the failures.

Also what a crash of the interpreter leaves behind. pytest's own option writes it to stderr, far above the summary.
"""

import faulthandler
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, TextIO

import pytest

HANGS_AFTER_S = 240.0

_stacks: TextIO | None = None


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    global _stacks
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is not None:
        _stacks = _file_of(worker).open("w", encoding="utf-8")
        faulthandler.enable(_stacks)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True, file=_stacks or sys.__stderr__ or sys.stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: Any) -> None:
    """The process that ran tests is gone: say what it left."""
    left = _file_of(report.node.workerinput)
    report.longrepr = f"{report.longrepr}\n{left.read_text(encoding='utf-8')}"
    left.unlink()


def pytest_unconfigure() -> None:
    if _stacks is not None:
        faulthandler.disable()
        _stacks.close()
        Path(_stacks.name).unlink(missing_ok=True)


def _file_of(worker: dict[str, Any]) -> Path:
    return Path(tempfile.gettempdir(), f"tests-{worker['testrunuid']}-{worker['workerid']}.stacks")
