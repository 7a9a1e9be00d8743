"""Checks the lines of a batch before any of them is made: all are valid, or none is made."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tollkeeper.batches.kinds import BatchKind, LineProblem
from tollkeeper.errors import FileMissing, LineTooLong
from tollkeeper.files.lines import Line, read_lines
from tollkeeper.worker_thread import pause, run_by_size

MAX_LINES = 50_000
"""As in OpenAI's API (guide "Batch API", "Rate limits")."""
MAX_PROBLEMS = 100
"""How many problems are listed. The check ends with the last of these."""


@dataclass(slots=True)
class CheckedLines:
    """The number of valid lines, and what is wrong with the others, as OpenAI's API lists it."""

    total: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)

    def note(self, problem: LineProblem, number: int | None = None) -> None:
        self.problems.append(
            {"code": problem.code, "message": problem.message, "param": problem.parameter, "line": number}
        )


async def check_lines(parts: AsyncIterator[bytes], kind: BatchKind) -> CheckedLines:
    """Check all lines of a file. Raises DatabaseUnavailable."""
    checked, known = CheckedLines(), set[str]()
    try:
        async for lines in read_lines(parts, max_bytes=kind.max_line_bytes):
            size = sum(len(line.content) for line in lines)
            await run_by_size(size, _check, lines, kind, checked, known)
            if len(checked.problems) >= MAX_PROBLEMS:
                return checked
            if checked.total > MAX_LINES:
                too_many = f"The file has too many requests: the limit is {MAX_LINES:,}. Split it."
                return CheckedLines(problems=[_problem("too_many_requests", too_many)])
    except LineTooLong as error:
        checked.note(LineProblem(error.code, error.detail), error.number)
    except FileMissing as error:
        checked.note(LineProblem(error.code, error.detail))
    if not checked.total and not checked.problems:
        checked.problems.append(_problem("empty_file", "The file has no requests."))
    return checked


def _check(lines: list[Line], kind: BatchKind, checked: CheckedLines, known: set[str]) -> None:
    for line in lines:
        pause()
        try:
            line_id = kind.read_line(line.content)
            if line_id in known:
                raise LineProblem("duplicate_custom_id", "Another line has this custom_id.", "custom_id")
        except LineProblem as problem:
            checked.note(problem, line.number)
            if len(checked.problems) >= MAX_PROBLEMS:
                return
        else:
            known.add(line_id)
            checked.total += 1


def _problem(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": None}
