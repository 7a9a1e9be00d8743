"""The checks of an installation for an operator, while it serves. However many ask, they run once at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tollkeeper.clock import Clock

LIFETIME_MS = 10_000
"""How long the same findings are returned."""


class CheckState(StrEnum):
    """What a check says: `warning` is what works and should be changed."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


_WORST_FIRST = (CheckState.FAILED, CheckState.WARNING, CheckState.OK)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `advice` is what to do; None if there is nothing to do, or if `detail` says it."""

    check: str
    state: CheckState
    detail: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Examination:
    """The findings of all checks, and when they had ended (milliseconds since the epoch)."""

    checked_ms: int
    findings: Sequence[Finding]

    @property
    def state(self) -> CheckState:
        """The worst state of a finding."""
        found = {finding.state for finding in self.findings}
        return next(state for state in _WORST_FIRST if state in found)


class Doctor:
    """Runs the checks, once for all who wait. Their findings are returned for LIFETIME_MS."""

    def __init__(self, run_checks: Callable[[], AsyncIterator[Finding]], clock: Clock) -> None:
        self._run_checks = run_checks
        self._clock = clock
        self._last: Examination | None = None
        self._task: asyncio.Task[Examination] | None = None

    async def examine(self) -> Examination:
        """The newest findings; of a run that has begun before, if it goes on."""
        if self._last is not None and 0 <= self._clock.now_ms() - self._last.checked_ms < LIFETIME_MS:
            return self._last
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="doctor")
        return await asyncio.shield(self._task)

    async def stop(self) -> None:
        """End a run."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> Examination:
        findings = [finding async for finding in self._run_checks()]
        self._last = Examination(self._clock.now_ms(), findings)
        return self._last
