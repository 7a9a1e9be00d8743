"""What a verification has found so far."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tollkeeper.quota.audit.problems import Problem

MAX_PROBLEMS = 100
"""Problems in a report. More are counted, but not listed."""


@dataclass(slots=True)
class AuditReport:
    """What was checked, and what is wrong. With `since`, only what was written after this time-sorted id was.

    The leases of `lapsed` of the `open_holds` are over.

    `archived` is the last archived month, 0 if there is none: older entries count as the sums that the archives left.

    Of `undecided` charges the rows do not tell whether they skipped a quota, because it was created just before.
    """

    since: str = ""
    archived: int = 0
    windows: int = 0
    entries: int = 0
    charges: int = 0
    open_holds: int = 0
    lapsed: int = 0
    overruns: int = 0
    undecided: int = 0
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0

    def add(self, problems: Iterable[Problem]) -> None:
        """Count problems, and list the first MAX_PROBLEMS."""
        for problem in problems:
            self.problem_count += 1
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(problem)
